"""Which prompts an iteration takes: every one once before any comes again."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.runs.prompts import prompts_of
from rollout.types import InputError, Prompt


def prompts(count: int) -> list[Prompt]:
    return [Prompt(f"p-{number}", f"text {number}") for number in range(count)]


def batches(count: int, per_iteration: int, iterations: int, seed: int = 0) -> list[list[str]]:
    """Iterations 1, 2, … each asked for by itself, as a resumed run does."""
    all_prompts = prompts(count)
    return [
        [prompt.id for prompt in prompts_of(number, all_prompts, per_iteration, seed)]
        for number in range(1, iterations + 1)
    ]


sizes = st.integers(1, 40).flatmap(
    lambda count: st.tuples(st.just(count), st.integers(1, count), st.integers(1, 12))
)


@given(sizes, st.integers(0, 5))
def test_no_prompt_comes_again_before_all_have_come(size: tuple[int, int, int], seed: int) -> None:
    # in the row of all iterations, each stretch of one epoch holds every prompt exactly once
    count, per_iteration, iterations = size
    found = batches(count, per_iteration, iterations, seed)
    assert all(len(set(batch)) == per_iteration for batch in found)
    flat = [one for batch in found for one in batch]
    for start in range(0, len(flat), count):
        epoch = flat[start : start + count]
        assert len(set(epoch)) == len(epoch)


@given(sizes)
def test_uses_differ_by_one_at_most(size: tuple[int, int, int]) -> None:
    count, per_iteration, iterations = size
    uses = Counter(one for batch in batches(count, per_iteration, iterations) for one in batch)
    every = [uses[prompt.id] for prompt in prompts(count)]
    assert max(every) - min(every) <= 1


def test_the_order_is_seeded_and_depends_on_ids_alone() -> None:
    forward, backward = prompts(30), prompts(30)[::-1]
    first = prompts_of(2, forward, 10, 7)
    assert first == prompts_of(2, backward, 10, 7)
    assert first != prompts_of(2, forward, 10, 8)
    assert first != forward[10:20]


def test_another_epoch_has_another_order() -> None:
    first, second = batches(20, 20, 2)
    assert sorted(first) == sorted(second) and first != second


def test_too_few_prompts() -> None:
    with pytest.raises(InputError, match=r"prompts\.per_iteration: is 4, but only 3 prompts"):
        prompts_of(1, prompts(3), 4, 0)
