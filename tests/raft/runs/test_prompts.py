"""Which prompts an iteration takes: every one once before any comes again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import checkpoint

from raft.runs.prompts import load_tokenizer, prompts_of
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "own",
    [
        {},
        {"tokenizer_class": "PreTrainedTokenizerFast"},
        {"tokenizer_class": "LlamaTokenizerFast"},
        {"tokenizer_class": None},
        {"add_bos_token": False, "model_max_length": 7},
    ],
)
def test_a_tokenizer_is_the_one_that_transformers_takes(
    tmp_path: Path, family: str, own: dict[str, object]
) -> None:
    from transformers import AutoTokenizer

    folder = checkpoint(tmp_path / "model", family)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **own}))
    found, usual = load_tokenizer(str(folder)), AutoTokenizer.from_pretrained(folder)
    assert type(found) is type(usual)
    texts = ["Once upon a time", "<s>Ä </s>", ""]
    for special in (False, True):
        assert (
            found(texts, add_special_tokens=special)["input_ids"]
            == usual(texts, add_special_tokens=special)["input_ids"]
        )


@pytest.mark.slow
def test_a_llamas_tokenizer_needs_no_torch(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", "llama")
    code = (
        "import sys\n"
        "from raft.runs.prompts import load_tokenizer\n"
        "from rollout.engines.base import context_length\n"
        "load_tokenizer(sys.argv[1])('text'), context_length(sys.argv[1])\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
