"""The Swiss system: in every round, each plays one of like standing. A pure schedule."""

from __future__ import annotations

from random import Random

import numpy as np

from rewards.tournament.brackets import shuffled
from rewards.tournament.bradley_terry import bradley_terry
from rewards.tournament.pairing import key_of, pair_up, rematches
from rewards.tournament.types import Pair, Schedule, by_score

__all__ = ["SWISS_SCORES", "least_rounds", "rounds_played", "swiss_schedule"]

SWISS_SCORES = ("points", "bradley_terry")


def least_rounds(n: int) -> int:
    """Return ⌈log2 n⌉, the rounds after which at most one response can be unbeaten."""
    return (n - 1).bit_length()


def rounds_played(n: int, rounds: int | None) -> int:
    """Return `rounds`, by default ⌈log2 n⌉ + 1; at most as many as have new opponents for all."""
    wanted = least_rounds(n) + 1 if rounds is None else rounds
    return min(wanted, n - 1 + n % 2) if n > 1 else 0


def swiss_schedule(
    n: int, rng: Random, *, rounds: int | None = None, score: str = "points"
) -> Schedule:
    """Schedule R rounds of ⌊n/2⌋ comparisons between neighbours by points, see `pair_up`.

    Of an odd number the lowest that has not yet sat out does so and gets a point. The order at
    equal points is drawn from the seed.

    score: "points", where the opponents' points order equal ones (Buchholz 1932), or
    "bradley_terry", which uses the probabilities as well; sitting out counts for nothing there.
    """
    standing = shuffled(n, rng)
    points, opponents = [0.0] * n, [[] for _ in range(n)]
    met, rested = set[Pair](), set[int]()
    pairs: list[Pair] = []
    probability_M: list[float] = []
    total = rounds_played(n, rounds)
    for _ in range(total):
        standing.sort(key=lambda index: -points[index])
        drawn = _draw_round(standing, met, rested, points)
        results = yield drawn
        for (first, second), share in zip(drawn, results.points_M, strict=True):
            points[first] += share
            points[second] += 1 - share
            opponents[first].append(second)
            opponents[second].append(first)
            met.add(key_of(first, second))
        pairs += drawn
        probability_M += results.probability_M
    if score == "bradley_terry":
        return by_score(
            np.round(bradley_terry(n, pairs, probability_M), 9).tolist(), top=n, bottom=n
        )
    return by_score(_with_buchholz(points, opponents, total), top=n, bottom=n)


def _draw_round(
    standing: list[int], met: set[Pair], rested: set[int], points: list[float]
) -> list[Pair]:
    """Return the pairs of one round, and note who sits out in `rested` and with a point.

    That is the lowest who has not yet done so, or one above where only that spares a rematch.
    """
    if len(standing) % 2 == 0:
        return pair_up(standing, met)
    rounds = []
    for idle in (index for index in reversed(standing) if index not in rested):
        drawn = pair_up([index for index in standing if index != idle], met)
        rounds.append((rematches(drawn, met), idle, drawn))
        if rounds[-1][0] == 0:
            break
    _, idle, drawn = min(rounds, key=lambda found: found[0])
    rested.add(idle)
    points[idle] += 1
    return drawn


def _with_buchholz(points: list[float], opponents: list[list[int]], rounds: int) -> list[float]:
    # the sum of opponents' points is `rounds`² at most: scaled to less than the ½ that ties give
    scale = 2.0 * (rounds * rounds + 1)
    return [
        own + sum(points[other] for other in against) / scale
        for own, against in zip(points, opponents, strict=True)
    ]
