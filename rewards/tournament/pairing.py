"""Who meets whom among players of like standing, old opponents last."""

from __future__ import annotations

from collections.abc import Sequence, Set

from rewards.tournament.types import Pair

__all__ = ["key_of", "pair_up"]


def key_of(first: int, second: int) -> Pair:
    """The same for both orders of two players."""
    return (first, second) if first < second else (second, first)


def pair_up(players: Sequence[int], met: Set[Pair]) -> list[Pair]:
    """Pairs of an even number of players, each with the nearest that it has not yet met.

    `met` holds pairs by `key_of`. Where the last ones left have all met, they exchange opponents
    with other pairs. As long as each has met fewer than half of the players this always succeeds:
    two old opponents have fewer than n − 2 acquaintances between them, so that of the n/2 − 1 other
    pairs one is not barred to them. Past that a pair may have to meet again.
    """
    pairs = _nearest(players, met)
    for at in range(len(pairs)):
        if key_of(*pairs[at]) in met:
            _exchange(pairs, at, met)
    return pairs


def _nearest(players: Sequence[int], met: Set[Pair]) -> list[Pair]:
    free, pairs = list(players), []
    while free:
        player = free.pop(0)
        new = (at for at, other in enumerate(free) if key_of(player, other) not in met)
        pairs.append((player, free.pop(next(new, 0))))
    return pairs


def _exchange(pairs: list[Pair], at: int, met: Set[Pair]) -> None:
    """Mend pair `at` with the nearest pair that can take part, if there is one."""
    a, b = pairs[at]
    for other in sorted(range(len(pairs)), key=lambda index: abs(index - at)):
        if other == at:
            continue
        c, d = pairs[other]
        for one, two in (((a, c), (b, d)), ((a, d), (b, c))):
            if key_of(*one) not in met and key_of(*two) not in met:
                pairs[at], pairs[other] = two, one
                return
