"""One response against all others, one after the other or at once. Pure schedules."""

from __future__ import annotations

from random import Random

from rewards.tournament.bracket import shuffled
from rewards.tournament.types import Schedule, by_score

__all__ = ["pivot_schedule", "sequential_schedule"]


def sequential_schedule(n: int, rng: Random) -> Schedule:
    """King of the hill: n − 1 comparisons, one a round, each newcomer against the king so far.

    A tie makes the newcomer king, as in LLM-Blender's "bubble" (`_bubble_predict`, where the one
    at the top needs a positive difference of logits to stay). Who comes early must win often:
    the order is drawn from the seed. A response's score is the last round at whose end it was
    king, 0 where it never was (the first king counts as king before round 1).
    """
    king, *newcomers = shuffled(n, rng)
    scores = [0.0] * n
    for rounds, newcomer in enumerate(newcomers, start=1):
        results = yield [(king, newcomer)]
        king = king if results.points_M[0] > 0.5 else newcomer
        scores[king] = float(rounds)
    return by_score(scores, top=1, bottom=0)


def pivot_schedule(n: int, rng: Random) -> Schedule:
    """All others against one drawn from the seed: n − 1 comparisons in a single round.

    A response's score is the log-odds that it beats the pivot, 0 for the pivot itself. Against a
    pivot that is far better or worse than the rest all look alike.
    """
    others = shuffled(n, rng)
    pivot = others.pop()
    scores = [0.0] * n
    if others:
        results = yield [(index, pivot) for index in others]
        for index, margin in zip(others, results.margin_M, strict=True):
            scores[index] = margin
    return by_score(scores, top=n, bottom=n)
