"""Double elimination: those who lose twice are out. A pure schedule."""

from __future__ import annotations

from random import Random

from rewards.tournament.bracket import shuffled, sides
from rewards.tournament.pairing import key_of, pair_up
from rewards.tournament.types import Pair, Schedule, by_score

__all__ = ["double_elimination_schedule"]


def double_elimination_schedule(n: int, rng: Random) -> Schedule:
    """2n − 2 comparisons: one wrong verdict puts nobody out but in the final.

    In every round the unbeaten play among themselves and so do those beaten once, until one of
    each is left; these two play a single final. (Were the one beaten once to win it, a second
    final would put the same question to the same judge.) Everyone but two loses twice, and the
    two finalists lose twice between them. A response's score is the number of rounds that it
    survived; first and second place mean something.
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
    """Pairs of players; of an odd number the one that sat out least often sits out."""
    if len(players) % 2:
        idle = min(players, key=lambda index: byes[index])
        byes[idle] += 1
        players = [index for index in players if index != idle]
    pairs = pair_up(players, met)
    met.update(key_of(*pair) for pair in pairs)
    return pairs
