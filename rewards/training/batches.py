"""Which examples make a step, and which of these go through the model together.

A step's examples are a random draw: lengths have no say in it, so that no step is all short pairs.
Within the step they are sorted by length and cut under a token budget. Loss and gradient are sums
over the step divided once by its weight, so the cuts change rounding and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rewards.training.example import Example
from rewards.training.layout import Layout
from rollout.types import InputError

__all__ = ["micro_batches", "training_steps"]


def training_steps(count: int, batch_size: int, epochs: float, seed: int) -> list[list[int]]:
    """Numbers of the examples of each step: `epochs` permutations of `count`, end to end.

    The last step alone may be smaller. It follows from the arguments, so that a resumed run takes
    the steps that are left. Raises `InputError` when there is nothing to train on.
    """
    total = round(count * epochs)
    if not total:
        raise InputError(f"{count} examples × epochs={epochs} is nothing to train on: give more")
    draw = [
        np.random.default_rng([seed, epoch]).permutation(count)
        for epoch in range(-(-total // count))
    ]
    order = np.concatenate(draw)[:total].tolist()
    return [order[start : start + batch_size] for start in range(0, total, batch_size)]


def micro_batches(examples: Sequence[Example], budget: int, layout: Layout) -> list[list[Example]]:
    """The examples in batches of at most `budget` tokens as `layout` counts them, at least one
    example each; the longest come first, so that memory runs out in the first batch or never."""
    if layout == "packed":
        ordered = sorted(examples, key=lambda one: -one.packed)
        return _filled(ordered, lambda batch: sum(one.packed for one in batch), budget)
    ordered = sorted(examples, key=lambda one: -one.longest)
    return _filled(ordered, lambda batch: batch[0].longest * sum(map(_rows, batch)), budget)


def _rows(example: Example) -> int:
    return len(example.rows)


def _filled(
    ordered: Sequence[Example], cost: Callable[[list[Example]], int], budget: int
) -> list[list[Example]]:
    batches: list[list[Example]] = []
    for one in ordered:
        if batches and cost([*batches[-1], one]) <= budget:
            batches[-1].append(one)
        else:
            batches.append([one])
    return batches
