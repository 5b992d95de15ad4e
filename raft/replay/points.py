"""Which K may be tried where points of a tournament select: what they say of fewer responses.

Points of a bracket tell who won among all N responses, and not who is second: the best of K by them
is worse than what a tournament of those K finds. Points of a round robin rank all, from more
comparisons than K responses have among themselves: the best of K by them is better than that, where
a judge is noisy. Neither matters at K = N, or where a single response is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raft.replay.rules import Rule, sweep

__all__ = ["methods_behind", "tried"]

# `raft.cli_bon` draws a whole best-of-n curve for the same ones
_RANKS_ALL = "round_robin"


def methods_behind(
    rule: Rule, weights: Mapping[str, float], judged: Mapping[str, Sequence[str]]
) -> list[str]:
    """The methods of the tournaments whose points a rule selects by; none for one that plays
    stored comparisons again. `judged` are those of each stored column."""
    if rule.tournament is not None:
        return []
    return sorted({method for column in weights for method in judged.get(column, ())})


def tried(
    rule: Rule, methods: Sequence[str], asked: Sequence[int] | None, stored: int
) -> tuple[Sequence[int], str | None]:
    """(the K to try, what a reader must know of them) among `stored` samples of a prompt.

    A sweep leaves out what points would understate; K that were asked for are tried.
    """
    ks = sweep(stored) if asked is None else asked
    if not methods or not any(1 < k < stored for k in ks):
        return ks, None
    brackets = [method for method in methods if method != _RANKS_ALL]
    if not brackets:
        return ks, (
            f"points of {_RANKS_ALL} among all N stored responses select, and rest on more "
            "comparisons than K responses have among themselves: numbers at K < N may overstate "
            f"what a tournament of K would find; --tournament {_RANKS_ALL} plays that from stored "
            "comparisons"
        )
    said = (
        f"points of {' and '.join(brackets)} among all N stored responses select, and tell who won "
        "but not who is second: numbers at K < N tend to understate what a tournament of K would "
        "find"
    )
    if asked is not None:
        return (
            ks,
            f"{said}; with reward.tournament={_RANKS_ALL} a run stores what --tournament needs",
        )
    # one response is the best of itself, whatever its points
    lone = rule.strategy == "best_of_k"
    left = tuple(k for k in ks if k == stored or (k == 1 and lone))
    return left, f"{said}, and are given only where --k asks for them"
