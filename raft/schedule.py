"""Which prompts an iteration takes: a seeded permutation, slice after slice, then the next one."""

from __future__ import annotations

from collections.abc import Sequence

from rollout.seeds import derive_seed
from rollout.types import InputError, Prompt


def prompts_of(
    iteration: int, prompts: Sequence[Prompt], per_iteration: int, seed: int
) -> list[Prompt]:
    """The prompts of iteration 1, 2, …: without replacement until all have been seen (LMFlow).

    Where a permutation ends inside an iteration, the next one goes on, arranged so that no prompt
    comes twice in that iteration and each comes once in every permutation.

    Raises:
        InputError: fewer prompts than one iteration takes.
    """
    count = len(prompts)
    if per_iteration > count:
        raise InputError(
            f"prompts.per_iteration: {per_iteration} asked for, {count} prompts there are; "
            "lower it or give more prompts"
        )
    epoch, offset = divmod((iteration - 1) * per_iteration, count)
    order = _order(epoch, prompts, per_iteration, seed)
    chosen = order[offset : offset + per_iteration]
    if missing := per_iteration - len(chosen):
        chosen += _after(order, epoch, prompts, per_iteration, seed)[:missing]
    return chosen


def _order(epoch: int, prompts: Sequence[Prompt], per_iteration: int, seed: int) -> list[Prompt]:
    """Permutation number `epoch`, found from the last one that began with an iteration."""
    first = epoch
    while (first * len(prompts)) % per_iteration:
        first -= 1
    order = _permutation(prompts, seed, first)
    for number in range(first, epoch):
        order = _after(order, number, prompts, per_iteration, seed)
    return order


def _after(
    order: list[Prompt], epoch: int, prompts: Sequence[Prompt], per_iteration: int, seed: int
) -> list[Prompt]:
    """The permutation after `order`: what shares an iteration with its end comes first."""
    tail = (epoch + 1) * len(prompts) % per_iteration
    following = _permutation(prompts, seed, epoch + 1)
    taken = {prompt.id for prompt in order[len(order) - tail :]}
    fresh = [prompt for prompt in following if prompt.id not in taken]
    head = fresh[: per_iteration - tail] if tail else []
    in_head = {prompt.id for prompt in head}
    return head + [prompt for prompt in following if prompt.id not in in_head]


def _permutation(prompts: Sequence[Prompt], seed: int, epoch: int) -> list[Prompt]:
    return sorted(prompts, key=lambda prompt: derive_seed(seed, "order", epoch, prompt.id))
