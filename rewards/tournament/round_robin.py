"""Round robins: everyone against everyone or a random part of them, and scores from the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from random import Random

import numpy as np
from numpy.typing import NDArray

from rewards.tournament.brackets import shuffled
from rewards.tournament.bradley_terry import bradley_terry
from rewards.tournament.types import Pair, Results, Schedule, by_score

__all__ = ["LEAGUE_SCORES", "connected_design", "round_robin_schedule"]

Floats = NDArray[np.float64]


def round_robin_schedule(
    n: int, rng: Random, *, score: str = "copeland", budget: int | None = None
) -> Schedule:
    """Schedule all n(n − 1)/2 pairs in one round, so that contradicting verdicts average out.

    score: "copeland", the share of opponents beaten (a tie counts ½; Copeland 1951);
    "mean_probability" of winning (Borda); "mean_logit", the mean log-odds (LLM-Blender's
    "max_logits"); "bradley_terry", the strengths of `rewards.tournament.bradley_terry`.
    budget: play only so many of the pairs, as `connected_design` draws them. Unequal numbers of
    opponents of unequal strength make sums unfair: only "bradley_terry" allows for that.
    """
    full = budget is None or budget >= n * (n - 1) // 2
    pairs = list(combinations(range(n), 2)) if full else connected_design(n, budget or 0, rng)
    results = (yield pairs) if pairs else Results([], [], [])
    return by_score(LEAGUE_SCORES[score](n, pairs, results).tolist(), top=n, bottom=n)


def connected_design(n: int, budget: int, rng: Random) -> list[Pair]:
    """Return `budget` distinct pairs, n − 1 at the least, in which a chain connects everyone.

    The responses stand in a circle in random order. First neighbours meet, then those at another
    distance, distances in random order: all have the same number of opponents, give or take two.
    """
    circle = shuffled(n, rng)
    distances = [1, *rng.sample(range(2, n // 2 + 1), max(0, n // 2 - 1))]
    pairs: list[Pair] = []
    for distance in distances:
        starts = range(n // 2 if 2 * distance == n else n)
        # the first circle is in order: cut short to n − 1 pairs, it is a chain that connects all
        places = starts if distance == 1 else rng.sample(starts, len(starts))
        pairs += [(circle[at], circle[(at + distance) % n]) for at in places]
    return pairs[:budget]


def _copeland(n: int, pairs: Sequence[Pair], results: Results) -> Floats:
    return _mean(n, pairs, np.array(results.points_M), 1.0, empty=0.5)


def _mean_probability(n: int, pairs: Sequence[Pair], results: Results) -> Floats:
    return _mean(n, pairs, np.array(results.probability_M), 1.0, empty=0.5)


def _mean_logit(n: int, pairs: Sequence[Pair], results: Results) -> Floats:
    return _mean(n, pairs, np.array(results.margin_M), 0.0, empty=0.0)


def _strength(n: int, pairs: Sequence[Pair], results: Results) -> Floats:
    return _settled(bradley_terry(n, pairs, results.probability_M))


def _mean(n: int, pairs: Sequence[Pair], value_M: Floats, total: float, empty: float) -> Floats:
    """Return the mean value (n,) of each response over its n − 1 opponents, `empty` without pairs.

    `value_M` is that to the first of each pair; the second gets `total` minus it.
    """
    if not len(value_M):
        return np.full(n, empty)
    first_M, second_M = np.array(pairs).T
    sums_N = np.bincount(first_M, value_M, n) + np.bincount(second_M, total - value_M, n)
    return _settled(sums_N / (n - 1))


def _settled(scores_N: Floats) -> Floats:
    # rounding in the last digits must not decide between two that come out equal
    return np.round(scores_N, 9)


LEAGUE_SCORES: dict[str, Callable[[int, Sequence[Pair], Results], Floats]] = {
    "copeland": _copeland,
    "mean_probability": _mean_probability,
    "mean_logit": _mean_logit,
    "bradley_terry": _strength,
}
