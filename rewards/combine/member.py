"""One member of a combined reward: its weight and scale, and the checks of its scores.

Errors of the member's reward are raised again under the member's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any

from rewards.combine.normalise import Normaliser
from rewards.types import Reward, RewardError, finite_or_missing
from rollout.types import Group, InputError

__all__ = ["Member"]


@dataclass(frozen=True, slots=True)
class Member:
    """One reward of a combination; `weight`, of either sign, multiplies its normalised score."""

    reward: Reward
    name: str
    weight: float
    normaliser: Normaliser

    def score_groups(self, groups: Sequence[Group]) -> list[list[float | None]]:
        """Return the raw scores, K of each group, checked: finite numbers or None.

        Raises `RewardError` or `InputError` that names the member.
        """
        with self._named():
            scores = self.reward.score_groups(groups)
            found = [len(row) for row in scores]
            wanted = [len(group.completions) for group in groups]
            if found != wanted:
                raise RewardError(
                    f"returned {sum(found)} scores in {len(found)} groups for {sum(wanted)} "
                    f"samples in {len(wanted)}: return one per sample, in order"
                )
            return [
                [_checked(score, f"prompt {group.prompt.id!r}") for score in row]
                for row, group in zip(scores, groups, strict=True)
            ]

    def score(self, conversations: Sequence[object]) -> list[float | None]:
        """Return the raw scores (N,) of conversations, None where the member gives NaN.

        Raises `InputError` where the member scores groups only, or is normalised within them, and
        `RewardError` for a wrong number of scores or an infinite one.
        """
        score: Callable[..., Any] | None = getattr(self.reward, "score", None)
        with self._named():
            if score is None:
                raise InputError("score", "the reward scores groups only", "use score_groups")
            if self.normaliser.within_group:
                raise InputError(
                    f'normalise "{self.normaliser.name}"',
                    "needs the other samples of a prompt, which conversations lack",
                    "use constants {mean, std}, or score_groups",
                )
            scores = score(conversations).tolist()
            if len(scores) != len(conversations):
                raise RewardError(
                    f"returned {len(scores)} scores for {len(conversations)} conversations"
                )
            return [
                None if value != value else _checked(value, f"conversation {index}")
                for index, value in enumerate(scores)
            ]

    def weighted(self, raw_K: Sequence[float | None], where: str) -> list[float | None]:
        """Return weight · normalised score of one prompt's samples; None stays None.

        Raises `RewardError` for scores too large to normalise.
        """
        try:
            return [
                None if value is None else self.weight * value for value in self.normaliser(raw_K)
            ]
        except OverflowError as error:
            raise RewardError(
                f"member {self.name!r}: scores too large to normalise, first at {where}"
            ) from error

    def describe(self) -> dict[str, object]:
        describe = getattr(self.reward, "describe", None)
        return {
            "name": self.name,
            "weight": self.weight,
            "normalise": self.normaliser.describe(),
            "reward": describe() if describe else {"name": getattr(self.reward, "name", None)},
        }

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            raise InputError(f"member {self.name!r}", error) from error
        except RewardError as error:
            raise RewardError(f"member {self.name!r}: {error}") from error


def _checked(score: object, where: str) -> float | None:
    if score is None:
        return None
    if not isinstance(score, Real):
        raise RewardError(f"returned {score!r} for {where}: a score is a number or None")
    # a missing score is None: a number that is not finite is a fault of the member
    return finite_or_missing(float(score), source="it", where=where, non_finite="raise")
