"""What a reward is: groups in, scores out. Knows nothing of models, functions or files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from rollout.types import Group, Message

__all__ = ["Comparison", "NonFinite", "Reward", "RewardError", "Scores"]

NonFinite = Literal["raise", "missing"]
Scores = list[list[float | None]]


class RewardError(RuntimeError):
    """A reward could not be computed. One line: what failed, for which prompt, how to mend it."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to one prompt. A judge answers P(`first` is better)."""

    prompt: Sequence[Message]
    first: str
    second: str

    def swap(self) -> Comparison:
        """The same two responses in the other order: cancels a judge's position bias."""
        return Comparison(self.prompt, first=self.second, second=self.first)


@runtime_checkable
class Reward(Protocol):
    """Anything that turns groups into scores."""

    def score_groups(self, groups: Sequence[Group]) -> Scores:
        """One list of K scores per group, in order; None is a missing score.

        Every number is finite. Raises `RewardError` when a reward cannot be computed.
        """
        ...
