"""Pair players of like standing, without rematches where a round can do without."""

from __future__ import annotations

from collections.abc import Sequence, Set

from rewards.tournament.types import Pair

__all__ = ["key_of", "pair_up", "rematches"]


def key_of(first: int, second: int) -> Pair:
    """Return two players as a pair that is the same for both orders of them."""
    return (first, second) if first < second else (second, first)


def rematches(pairs: Sequence[Pair], met: Set[Pair]) -> int:
    """Return how many of the pairs have met; `met` holds pairs by `key_of`."""
    return sum(key_of(*pair) in met for pair in pairs)


def pair_up(players: Sequence[int], met: Set[Pair]) -> list[Pair]:
    """Pair an even number of players, in the order of their standing, each with the nearest.

    `met` holds pairs by `key_of`. Every player gets the nearest that it has not yet met. Where that
    leaves old opponents for the last ones, all pairings of the round are searched instead for the
    fewest rematches and, among these, the nearest standings.
    """
    pairs = _nearest(players, met)
    return _fewest_rematches(players, met) if rematches(pairs, met) else pairs


def _nearest(players: Sequence[int], met: Set[Pair]) -> list[Pair]:
    free, pairs = list(players), []
    while free:
        player = free.pop(0)
        new = (at for at, other in enumerate(free) if key_of(player, other) not in met)
        pairs.append((player, free.pop(next(new, 0))))
    return pairs


def _fewest_rematches(players: Sequence[int], met: Set[Pair]) -> list[Pair]:
    """Return the pairs with the fewest rematches and, among these, the nearest standings.

    They are a minimum-weight perfect matching (Edmonds 1965), by networkx.
    """
    import networkx as nx

    count = len(players)
    # one rematch weighs more than all distances of a round together
    rematch = count**3
    graph = nx.Graph()
    graph.add_weighted_edges_from(
        (a, b, (b - a) ** 2 + rematch * (key_of(players[a], players[b]) in met))
        for a in range(count)
        for b in range(a + 1, count)
    )
    pairs = sorted(tuple(sorted(pair)) for pair in nx.min_weight_matching(graph))
    return [(players[a], players[b]) for a, b in pairs]
