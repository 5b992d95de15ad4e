"""What a reward is: it turns groups into scores, each a finite number or missing, or raises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from rollout.data.samples import is_too_large
from rollout.types import Group, InputError, Message

__all__ = [
    "Bos",
    "Comparison",
    "EngineName",
    "Eos",
    "Family",
    "Format",
    "NonFinite",
    "Reward",
    "RewardError",
    "Scores",
    "TruncationSide",
    "calls_at_once",
    "check_non_finite",
    "finite_or_missing",
]

# settings that several parts of this package share
Bos = Literal["single", "double", "none"]
Eos = Literal["none", "single"]
EngineName = Literal["auto", "transformers", "vllm"]
Family = Literal["classifier", "armorm", "grm", "pairwise"]
# hh_hash is "###Human: …###Assistant: …"; hh, its old name, reads as it does
Format = Literal["chat", "hh_hash", "plain", "hh", "ultrarm", "beaver"]
NonFinite = Literal["raise", "missing"]
TruncationSide = Literal["left", "right"]
Scores = list[list[float | None]]


class RewardError(RuntimeError):
    """A reward could not be computed. One line: what failed, for which prompt, how to fix it."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to one prompt. A judge answers P(`first` is better)."""

    prompt: Sequence[Message]
    first: str
    second: str

    def swap(self) -> Comparison:
        """Return the two responses in the other order, to cancel a judge's position bias."""
        return Comparison(self.prompt, first=self.second, second=self.first)


@runtime_checkable
class Reward(Protocol):
    """Anything that turns groups into scores."""

    def score_groups(self, groups: Sequence[Group]) -> Scores:
        """Return one list of K scores per group, in order; None is a missing score.

        Every number is finite. Raises `RewardError` when a reward cannot be computed.
        """
        ...


def calls_at_once(scorer: object) -> int:
    """Return how many calls a reward or a judge takes at a time, each from a thread of its own.

    That is 1, or the number of its workers.
    """
    return getattr(scorer, "calls_at_once", 1)


NON_FINITE = ("raise", "missing")


def check_non_finite(non_finite: str) -> None:
    """Check `non_finite`. Raises `InputError` for anything but "raise" and "missing"."""
    if non_finite not in NON_FINITE:
        raise InputError(
            f"non_finite={non_finite!r}",
            "is unknown",
            f"use one of {', '.join(NON_FINITE)}",
        )


def finite_or_missing(
    value: float, *, source: str, where: str, non_finite: NonFinite
) -> float | None:
    """Return `value` where it is finite and at most `LARGEST` in size.

    Otherwise return None with `non_finite="missing"`, and raise `RewardError` with "raise".
    """
    if math.isfinite(value) and not is_too_large(value):
        return value
    if non_finite == "missing":
        return None
    raise RewardError(
        f"{source} gave {value} for {where}: a reward must be finite"
        f"{' and no larger than sums can hold' if math.isfinite(value) else ''} "
        f'(non_finite="missing" leaves such samples out instead)'
    )
