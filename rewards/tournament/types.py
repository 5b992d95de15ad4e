"""Types that pass between a schedule, which decides who meets whom, and the code that plays it.

A schedule is a generator for the n responses of one prompt: it yields the pairs of a round, is sent
their `Results`, and in the end returns a `Ranking`. It never sees a missing comparison and counts
nothing: `rewards.tournament.play` does both for all methods.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

__all__ = [
    "Match",
    "Pair",
    "Played",
    "Ranking",
    "Results",
    "Schedule",
    "Standing",
    "Tournament",
    "by_score",
]

Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Tournament:
    """How responses are ranked: the settings of `rewards.tournament.play`.

    `method` None is the caller's default; `score` and `rounds` None are the method's. |P − ½| up to
    `tie` is a tie; `budget` is comparisons per prompt, None for no limit; `seed` decides, with a
    prompt's id, all that is drawn for it.
    """

    method: str | None = None
    score: str | None = None
    rounds: int | None = None
    budget: int | None = None
    tie: float = 0.0
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """Return the method's own settings, `score` and `rounds`, without those that are None."""
        given = {"score": self.score, "rounds": self.rounds}
        return {name: value for name, value in given.items() if value is not None}


class Match(NamedTuple):
    """Responses `first` and `second` of prompt number `prompt` are to be compared."""

    prompt: int
    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Results:
    """The results of the M pairs of a round: P(first is better), its log-odds, and points.

    Points go to the first of the pair: 1 where it won, ½ where the two tied, 0 where it lost.
    """

    probability_M: list[float]
    margin_M: list[float]
    points_M: list[float]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The result of a schedule: the fields of `Standing` that a schedule decides."""

    order: tuple[int, ...]
    scores: tuple[float, ...]
    top: int
    bottom: int


Schedule: TypeAlias = Generator[list[Pair], Results, Ranking]


@dataclass(frozen=True, slots=True)
class Played:
    """Every comparison of one prompt in the order it was made, as columns of M.

    `gap_M` is None where the judge did not say how its verdict depends on the order.
    """

    pairs: tuple[Pair, ...] = ()
    probability_M: tuple[float, ...] = ()
    margin_M: tuple[float, ...] = ()
    points_M: tuple[float, ...] = ()
    gap_M: tuple[float | None, ...] = ()

    def among(self, entrants_K: Sequence[int]) -> list[list[int | float]]:
        """Return [i, j, P(response i is better than j)] of each comparison.

        `entrants_K` are the entrants of K responses. Equal responses are one entrant, for which the
        first of them is given.
        """
        first = {entrant: k for k, entrant in reversed([*enumerate(entrants_K)])}
        both = zip(self.pairs, self.probability_M, strict=True)
        return [[first[i], first[j], chance] for (i, j), chance in both]


@dataclass(frozen=True, slots=True)
class Standing:
    """How the n responses of one prompt stand.

    order: all n indices, best first; empty when a comparison is missing.
    scores: n numbers in the order of the responses, the highest the winner's; they compare
        responses of one prompt only. All None when a comparison is missing.
    top, bottom: how many places of `order`, from the best and from the worst end, the method is
        made to tell. A knockout tells the winner; whom it puts next depends on the bracket.
    comparisons: how many were asked for, a comparison being two forward passes, one per order.
    ties, rounds: how many of the comparisons tied; how many batches they came in.
    played: the comparisons themselves; those up to the round that failed when one is missing.
    """

    order: tuple[int, ...]
    scores: tuple[float | None, ...]
    top: int
    bottom: int
    comparisons: int
    ties: int
    rounds: int
    played: Played = field(default_factory=Played, repr=False)

    @property
    def missing(self) -> bool:
        """Whether a comparison is missing, and with it the standing as a whole."""
        return not self.order

    @property
    def winner(self) -> int | None:
        return self.order[0] if self.order else None


def by_score(scores: Sequence[float], *, top: int, bottom: int) -> Ranking:
    """Rank by falling score; equal scores are in the order of the responses."""
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    n = len(scores)
    values = tuple(float(score) for score in scores)
    return Ranking(tuple(order), values, top=min(top, n), bottom=min(bottom, n))
