"""Elimination brackets, single and double, and one response against all others.

Pure schedules, see `rewards.tournament.types`. In a bracket's tie the first of the pair goes on;
who is first is drawn from the seed, so that chance decides the tie.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from rewards.tournament.pairing import key_of, pair_up
from rewards.tournament.types import Pair, Ranking, Schedule, by_score

__all__ = [
    "best_and_worst_schedule",
    "double_elimination_schedule",
    "knockout_schedule",
    "pivot_schedule",
    "sequential_schedule",
    "shuffled",
    "sides",
]


def knockout_schedule(n: int, rng: Random) -> Schedule:
    """Schedule one bracket: n − 1 comparisons in ⌈log2 n⌉ rounds, the most that a winner plays.

    Where n is no power of two, responses drawn at random skip the first round, so that a power of
    two is left after it. A response's score is the number of rounds that it survived.
    """
    alive = shuffled(n, rng)
    scores = [0.0] * n
    byes = (1 << (n - 1).bit_length()) - n
    while len(alive) > 1:
        pairs = neighbours(alive[byes:])
        results = yield pairs
        alive = alive[:byes] + sides(pairs, results.points_M)[0]
        byes = 0
        for index in alive:
            scores[index] += 1
    return by_score(scores, top=1, bottom=0)


def best_and_worst_schedule(n: int, rng: Random) -> Schedule:
    """Schedule brackets for best and worst, as pairs to train on: ⌈3n/2⌉ − 2 comparisons.

    No fewer can find both (Pohl 1972). After a first round the winners play a bracket for the best
    place and the losers one for the worst, at the same time; of an odd number, one skips the first
    round and plays in both. A judge that contradicts itself may put that one at both ends: then it
    is the best, and the worst is its opponent in the last comparison for the worst place.
    """
    entrants = shuffled(n, rng)
    if n == 1:
        return by_score([0.0], top=1, bottom=1)
    scores, rounds = [0.0] * n, 0
    high = low = entrants
    # the first round is one round for both brackets
    ups = downs = pairs = neighbours(entrants)
    while ups:
        results = yield pairs
        rounds += 1
        # whoever sat out comes first, and so plays next
        high = idle_of(high) + sides(ups, results.points_M)[0]
        low = idle_of(low) + sides(downs, results.points_M[-len(downs) :])[1]
        for index in high:
            scores[index] += 1
        for index in low:
            scores[index] -= 1
        last = downs[-1]
        ups, downs = neighbours(high), neighbours(low)
        pairs = ups + downs
    return _both_ends(scores, high[0], low[0], last, rounds)


def _both_ends(scores: list[float], best: int, worst: int, last: Pair, rounds: int) -> Ranking:
    if best == worst:
        worst = last[0] if last[1] == worst else last[1]
    # all others stay short of `rounds`: they are out of a bracket, or skipped a round
    scores[best], scores[worst] = float(rounds), -float(rounds)
    return by_score(scores, top=1, bottom=1)


def shuffled(n: int, rng: Random) -> list[int]:
    return rng.sample(range(n), n)


def neighbours(entrants: Sequence[int]) -> list[Pair]:
    """Pair first with second, third with fourth, …; of an odd number the last sits out."""
    return list(zip(entrants[::2], entrants[1::2], strict=False))


def idle_of(entrants: Sequence[int]) -> list[int]:
    return list(entrants[-1:]) if len(entrants) % 2 else []


def sides(pairs: Iterable[Pair], points_M: Iterable[float]) -> tuple[list[int], list[int]]:
    """Return (winners, losers) of the pairs; in a tie the first of a pair wins."""
    winners, losers = [], []
    for (first, second), points in zip(pairs, points_M, strict=False):
        won = points >= 0.5
        winners.append(first if won else second)
        losers.append(second if won else first)
    return winners, losers


def double_elimination_schedule(n: int, rng: Random) -> Schedule:
    """Schedule 2n − 2 comparisons in which one wrong verdict puts nobody out but in the final.

    In every round the unbeaten play among themselves and so do those beaten once, until one of
    each is left; these two play a single final. (If the one beaten once wins it, a second final
    would only ask the same judge the same question.) Everyone but two loses twice, and the two
    finalists lose twice between them. A response's score is the number of rounds that it survived;
    only first and second place are meaningful.
    """
    order = shuffled(n, rng)
    losses, byes, met = [0] * n, [0] * n, set[Pair]()
    scores, rounds = [0.0] * n, 0
    while n > 1:
        unbeaten = [index for index in order if losses[index] == 0]
        once = [index for index in order if losses[index] == 1]
        final = len(unbeaten) == len(once) == 1
        pairs = [(unbeaten[0], once[0])] if final else []
        pairs = pairs or _paired(unbeaten, byes, met) + _paired(once, byes, met)
        results = yield pairs
        rounds += 1
        winners, losers = sides(pairs, results.points_M)
        for index in losers:
            losses[index] += 1
            scores[index] = float(rounds)
        if final:
            scores[winners[0]] = rounds + 1.0
            break
    return by_score(scores, top=2, bottom=0)


def _paired(players: list[int], byes: list[int], met: set[Pair]) -> list[Pair]:
    """Pair the players by `pair_up`; of an odd number the one that sat out least often sits out.

    `byes` counts how often each sat out, `met` holds the pairs so far; both are updated.
    """
    if len(players) % 2:
        idle = min(players, key=lambda index: byes[index])
        byes[idle] += 1
        players = [index for index in players if index != idle]
    pairs = pair_up(players, met)
    met.update(key_of(*pair) for pair in pairs)
    return pairs


def sequential_schedule(n: int, rng: Random) -> Schedule:
    """Schedule king of the hill: n − 1 rounds, in each a newcomer against the king so far.

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
    """Schedule all others against a pivot drawn from the seed: n − 1 comparisons in one round.

    A response's score is the log-odds that it beats the pivot, 0 for the pivot itself. Against a
    pivot that is far better or worse than the rest, all look alike.
    """
    others = shuffled(n, rng)
    pivot = others.pop()
    scores = [0.0] * n
    if others:
        results = yield [(index, pivot) for index in others]
        for index, margin in zip(others, results.margin_M, strict=True):
            scores[index] = margin
    return by_score(scores, top=n, bottom=n)
