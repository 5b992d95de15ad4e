"""Reward by length: the simplest reward to see a run work, and to see it being hacked."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.functions.text import completion_texts
from rollout.types import InputError

UNITS = ("chars", "words", "tokens")


def length(
    prompts: Sequence[object],
    completions: Sequence[object],
    completion_ids: Sequence[Sequence[int]] | None = None,
    *,
    unit: str = "words",
    target: float | None = None,
    scale: float = 1.0,
    **columns: object,
) -> list[float]:
    """Return `scale` · length, or −`scale` · |length − target| when `target` is given.

    `unit` is "chars", "words" (separated by white space) or "tokens" (those that the policy drew).
    Raises `InputError` for an unknown unit, or for tokens where no ids are known.
    """
    if unit not in UNITS:
        raise InputError("length", f"unit={unit!r} is unknown", f"use one of {', '.join(UNITS)}")
    sizes = _sizes(completions, completion_ids, unit)
    if target is None:
        return [scale * size for size in sizes]
    return [-scale * abs(size - target) for size in sizes]


def _sizes(
    completions: Sequence[object], completion_ids: Sequence[Sequence[int]] | None, unit: str
) -> list[int]:
    if unit == "tokens":
        if completion_ids is None:
            raise InputError(
                "length",
                'unit="tokens" needs completion_ids',
                'use "words" or "chars"',
            )
        return [len(ids) for ids in completion_ids]
    texts = completion_texts(completions)
    return [len(text.split()) if unit == "words" else len(text) for text in texts]
