"""What tournaments cost, and how far their judge is consistent with itself: counts and shares."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from rewards.tournament.types import Played, Standing

__all__ = ["Report", "intransitive_triples"]

# differences in probability this small are rounding, not another verdict
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Report:
    """Sums over prompts, so that reports of batches add up (`+`); a share of nothing is NaN.

    missing: prompts without a standing, a comparison of theirs being missing.
    comparisons: those asked for, those of missing prompts included; all else is about prompts'
        comparisons up to the round in which one was missing.
    both_orders: comparisons whose judge told its verdict in each order; `gap_sum`, `gap_size_sum`
        and `flips` are sums over these.
    triples: three responses of which all three pairs were compared; `intransitive` are those where
        each beats one of the others. A tie makes no such circle.
    """

    prompts: int = 0
    missing: int = 0
    comparisons: int = 0
    ties: int = 0
    both_orders: int = 0
    gap_sum: float = 0.0
    gap_size_sum: float = 0.0
    flips: int = 0
    triples: int = 0
    intransitive: int = 0

    @classmethod
    def of(cls, standings: Iterable[Standing]) -> Report:
        return sum((_one(standing) for standing in standings), cls())

    def __add__(self, other: Report) -> Report:
        names = [field.name for field in fields(self)]
        return Report(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @property
    def forward_passes(self) -> int:
        """Number of forward passes: two per comparison, one in each order."""
        return 2 * self.comparisons

    @property
    def position_bias(self) -> float:
        """Mean of P(first | shown first) − P(first | shown second): in [−1, 1], 0 is no bias."""
        return _share(self.gap_sum, self.both_orders)

    @property
    def inconsistency(self) -> float:
        """Mean size of the difference in `position_bias`: opposite signs do not cancel."""
        return _share(self.gap_size_sum, self.both_orders)

    @property
    def flip_share(self) -> float:
        """Share of comparisons won by another response in the one order than in the other."""
        return _share(self.flips, self.both_orders)

    @property
    def intransitive_share(self) -> float:
        return _share(self.intransitive, self.triples)


def intransitive_triples(played: Played) -> tuple[int, int]:
    """Return (circles a > b > c > a, triples of which all three pairs were compared).

    Both are counted by traces of third powers, of the matrix of who beat whom and of that of who
    met whom; a pair that met again counts once, by the sum of its results.
    """
    if not played.pairs:
        return 0, 0
    pairs_M2 = np.array(played.pairs)
    n = int(pairs_M2.max()) + 1
    lead_NN, met_NN = np.zeros((n, n)), np.zeros((n, n))
    points_M = np.array(played.points_M) - 0.5
    for i, j, sign in ((0, 1, 1), (1, 0, -1)):
        np.add.at(lead_NN, (pairs_M2[:, i], pairs_M2[:, j]), sign * points_M)
        met_NN[pairs_M2[:, i], pairs_M2[:, j]] = 1
    beat_NN = (lead_NN > 0).astype(np.float64)
    # a closed walk of three steps is a circle seen from each of its 3 members (and 2 directions)
    circles = np.einsum("ij,ji->", beat_NN @ beat_NN, beat_NN) / 3
    triples = np.einsum("ij,ji->", met_NN @ met_NN, met_NN) / 6
    return round(circles), round(triples)


def _one(standing: Standing) -> Report:
    played = standing.played
    gaps = [gap for gap in played.gap_M if gap is not None]
    known = zip(played.probability_M, played.gap_M, strict=True)
    circles, triples = intransitive_triples(played)
    return Report(
        prompts=1,
        missing=int(standing.missing),
        comparisons=standing.comparisons,
        ties=standing.ties,
        both_orders=len(gaps),
        gap_sum=math.fsum(gaps),
        gap_size_sum=math.fsum(map(abs, gaps)),
        flips=sum(_flips(probability, gap) for probability, gap in known if gap is not None),
        triples=triples,
        intransitive=circles,
    )


def _flips(probability: float, gap: float) -> bool:
    shown_first, shown_second = probability + gap / 2 - 0.5, probability - gap / 2 - 0.5
    return (
        min(shown_first, shown_second) < -_ROUNDING and max(shown_first, shown_second) > _ROUNDING
    )


def _share(part: float, whole: int) -> float:
    return part / whole if whole else math.nan
