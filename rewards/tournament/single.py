"""Each method for the n responses of a single prompt, with its own settings.

`compare` takes pairs (i, j) and answers P(i is better than j) for each. The form of its answers,
ties (`tie`) and errors are as in `play`, which is meant for many prompts: its batches are larger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

from rewards.tournament.play import play
from rewards.tournament.types import Match, Pair, Standing
from rewards.tournament.verdicts import Verdict

__all__ = [
    "ComparePairs",
    "best_and_worst",
    "double_elimination",
    "knockout",
    "pivot",
    "round_robin",
    "sequential",
    "swiss",
]

ComparePairs: TypeAlias = Callable[[Sequence[Pair]], Verdict]
LeagueScore = Literal["copeland", "mean_probability", "mean_logit", "bradley_terry"]
SwissScore = Literal["points", "bradley_terry"]


def sequential(n: int, compare: ComparePairs, *, seed: int = 0, tie: float = 0.0) -> Standing:
    """Rank by king of the hill: n − 1 comparisons and rounds; a tie makes the newcomer king."""
    return _one("sequential", n, compare, seed=seed, tie=tie)


def knockout(n: int, compare: ComparePairs, *, seed: int = 0, tie: float = 0.0) -> Standing:
    """Rank by one bracket: n − 1 comparisons in ⌈log2 n⌉ rounds. Tells the winner only."""
    return _one("knockout", n, compare, seed=seed, tie=tie)


def pivot(n: int, compare: ComparePairs, *, seed: int = 0, tie: float = 0.0) -> Standing:
    """Rank against one drawn at random: n − 1 comparisons in one round; the least accurate."""
    return _one("pivot", n, compare, seed=seed, tie=tie)


def best_and_worst(n: int, compare: ComparePairs, *, seed: int = 0, tie: float = 0.0) -> Standing:
    """Rank by brackets for best and worst: ⌈3n/2⌉ − 2 comparisons in about log2 n rounds."""
    return _one("best_and_worst", n, compare, seed=seed, tie=tie)


def double_elimination(
    n: int, compare: ComparePairs, *, seed: int = 0, tie: float = 0.0
) -> Standing:
    """Rank by two losses to be out: 2n − 2 comparisons. Tells the winner and the second."""
    return _one("double_elimination", n, compare, seed=seed, tie=tie)


def swiss(
    n: int,
    compare: ComparePairs,
    *,
    rounds: int | None = None,
    score: SwissScore = "points",
    seed: int = 0,
    tie: float = 0.0,
    budget: int | None = None,
) -> Standing:
    """Rank by R rounds among responses of like standing, R⌊n/2⌋ comparisons.

    R is `rounds`, by default ⌈log2 n⌉ + 1 or as many as `budget` allows.
    """
    settings = {"rounds": rounds, "score": score}
    return _one("swiss", n, compare, seed=seed, tie=tie, budget=budget, **settings)


def round_robin(
    n: int,
    compare: ComparePairs,
    *,
    score: LeagueScore = "copeland",
    seed: int = 0,
    tie: float = 0.0,
    budget: int | None = None,
) -> Standing:
    """Rank by all n(n − 1)/2 pairs in one round; with score="bradley_terry", `budget` of them."""
    return _one("round_robin", n, compare, seed=seed, tie=tie, budget=budget, score=score)


def _one(method: str, n: int, compare: ComparePairs, **settings: Any) -> Standing:
    def compare_matches(matches: Sequence[Match]) -> Verdict:
        return compare([(match.first, match.second) for match in matches])

    return play(method, [n], compare_matches, **settings)[0]
