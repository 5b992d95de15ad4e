"""Cutting over-long texts without losing what is being scored."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Literal

from rollout.types import InputError

__all__ = ["TruncationSide", "check_truncation", "cut", "keeps_response"]

TruncationSide = Literal["left", "right"]
SIDES = ("left", "right")


def check_truncation(side: str, max_length: int | None, front: int) -> None:
    """Raises `InputError` for an unknown side, or a length that leaves no room after the BOS."""
    if side not in SIDES:
        raise InputError(f"truncation_side={side!r} is unknown: use one of {', '.join(SIDES)}")
    if max_length is not None and max_length <= front:
        raise InputError(f"max_length={max_length} leaves no room for text: use a larger one")


def cut(ids: Sequence[int], max_length: int, side: TruncationSide, front: int) -> list[int]:
    """`ids` (T,) at most `max_length` long. The first `front` tokens (BOS) always stay."""
    if len(ids) <= max_length:
        return list(ids)
    if side == "right":
        return list(ids[:max_length])
    return [*ids[:front], *ids[len(ids) - (max_length - front) :]]


def keeps_response(
    ids: Sequence[int], without: Sequence[int], max_length: int, side: TruncationSide, front: int
) -> bool:
    """Does at least one token of the response survive the cut?

    `without` is the same conversation with an empty response: what both have in common at the
    start is the prompt, at the end what the template puts after a response.
    """
    if side == "right":
        return max_length > _common_prefix(ids, without)
    return max_length - front > _common_prefix(ids[::-1], without[::-1])


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False))
    return sum(1 for _ in same)
