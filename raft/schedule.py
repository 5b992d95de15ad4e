"""Which prompts an iteration takes: a seeded permutation, slice after slice, then the next one."""

from __future__ import annotations

from collections.abc import Sequence

from rollout.seeds import derive_seed
from rollout.types import InputError, Prompt


def prompts_of(
    iteration: int, prompts: Sequence[Prompt], per_iteration: int, seed: int
) -> list[Prompt]:
    """The prompts of iteration 1, 2, …: without replacement until all have been seen (LMFlow).

    Where the permutation ends inside an iteration, the next one goes on; a prompt that would come
    twice in one iteration is passed over until the iteration is full.

    Raises:
        InputError: fewer prompts than one iteration takes.
    """
    if per_iteration > len(prompts):
        raise InputError(
            f"prompts.per_iteration: {per_iteration} asked for, {len(prompts)} prompts there are; "
            "lower it or give more prompts"
        )
    first = (iteration - 1) * per_iteration
    epoch, offset = divmod(first, len(prompts))
    chosen = _permutation(prompts, seed, epoch)[offset : offset + per_iteration]
    if len(chosen) < per_iteration:
        taken = {prompt.id for prompt in chosen}
        following = (p for p in _permutation(prompts, seed, epoch + 1) if p.id not in taken)
        chosen += [next(following) for _ in range(per_iteration - len(chosen))]
    return chosen


def _permutation(prompts: Sequence[Prompt], seed: int, epoch: int) -> list[Prompt]:
    return sorted(prompts, key=lambda prompt: derive_seed(seed, "order", epoch, prompt.id))
