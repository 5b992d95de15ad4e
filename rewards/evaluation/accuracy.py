"""Measure how often the better response wins, and how much response length decides.

Ties and missing pairs are counted, never hidden.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from rewards.evaluation.stats import (
    RESAMPLES,
    Interval,
    interval95,
    pearson,
    resampled_ratios,
    spearman,
    wilson95,
)

__all__ = [
    "Accuracy",
    "LengthBias",
    "accuracy",
    "accuracy_by",
    "length_bias",
]

Label = TypeVar("Label", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Counts of pairs by outcome, and the shares that follow. A share of no pairs is NaN.

    Args:
        wins, ties, losses: of the pairs that have a margin.
        missing: pairs without one; they are in no share but `of_all`.
        clusters: number of prompts that the pairs with a margin belong to.
        interval: 95 % interval of `strict`.
    """

    wins: int
    ties: int
    losses: int
    missing: int
    clusters: int
    interval: Interval

    @property
    def pairs(self) -> int:
        """Return the number of pairs with a margin."""
        return self.wins + self.ties + self.losses

    @property
    def strict(self) -> float:
        """Return the share of wins: a tie is lost."""
        return self.wins / self.pairs if self.pairs else math.nan

    @property
    def half(self) -> float:
        """Return the share of wins, a tie counting half."""
        return (self.wins + self.ties / 2) / self.pairs if self.pairs else math.nan

    @property
    def tie_share(self) -> float:
        return self.ties / self.pairs if self.pairs else math.nan

    @property
    def of_all(self) -> float:
        """Return the share of wins among all pairs: a missing one is lost too."""
        every = self.pairs + self.missing
        return self.wins / every if every else math.nan


def accuracy(
    margins_M: ArrayLike, cluster_M: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> Accuracy:
    """Return the accuracy on M pairs, its interval by resampling prompts (`cluster_M`).

    Where every pair has the same outcome resampling finds no spread: the interval is then Wilson's
    (1927), for as many trials as there are prompts.
    """
    margins_M = np.asarray(margins_M, dtype=np.float64)
    known_M = np.isfinite(margins_M)
    known, clusters = margins_M[known_M], np.asarray(cluster_M)[known_M]
    wins, losses = int((known > 0).sum()), int((known < 0).sum())
    count = len(np.unique(clusters))
    return Accuracy(
        wins=wins,
        ties=len(known) - wins - losses,
        losses=losses,
        missing=int((~known_M).sum()),
        clusters=count,
        interval=_interval(known > 0, clusters, count, resamples, seed),
    )


def accuracy_by(
    labels_M: Sequence[Label],
    margins_M: ArrayLike,
    cluster_M: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[Label, Accuracy]:
    """Return the `accuracy` of the pairs under each label, in the order the labels first appear."""
    margins_M, cluster_M = np.asarray(margins_M), np.asarray(cluster_M)
    places: dict[Label, list[int]] = {}
    for place, label in enumerate(labels_M):
        places.setdefault(label, []).append(place)
    return {
        label: accuracy(margins_M[at], cluster_M[at], resamples=resamples, seed=seed)
        for label, at in places.items()
    }


def _interval(
    won_M: np.ndarray, cluster_M: np.ndarray, clusters: int, resamples: int, seed: int
) -> Interval:
    if clusters == 0:
        return Interval(math.nan, math.nan)
    if won_M.all() or not won_M.any():
        return wilson95(clusters if won_M.all() else 0, clusters)
    ones_M1 = np.ones((len(won_M), 1))
    draws_B1 = resampled_ratios(won_M[:, None], ones_M1, cluster_M, resamples=resamples, seed=seed)
    return interval95(draws_B1[:, 0], clusters)


_FEWEST = 3  # a correlation of fewer points means nothing


@dataclass(frozen=True, slots=True)
class LengthBias:
    """How length and verdict go together, on the pairs whose two lengths are known.

    Args:
        unit: of the lengths: "characters" or "tokens".
        better_longer, better_shorter, better_equal: accuracy where the better response is longer
            than the worse, shorter, or equally long.
        prefers_longer: share of the pairs of different length, ties apart, in which the longer
            response wins; `longer_is_better` is the same share by the labels.
        spearman, pearson: correlation of the margin with the better response's extra length, 0
            for a reward that length tells nothing about; NaN for fewer than 3 pairs, and where
            one of the two does not vary.
    """

    unit: str
    better_longer: Accuracy
    better_shorter: Accuracy
    better_equal: Accuracy
    prefers_longer: float
    longer_is_better: float
    spearman: float
    pearson: float


def length_bias(
    margins_M: ArrayLike,
    extra_M: ArrayLike,
    cluster_M: ArrayLike,
    *,
    unit: str = "characters",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> LengthBias:
    """Return how length and verdict go together on M pairs.

    `extra_M` is the length of the better response minus that of the worse, NaN if not known.
    """
    margins_M = np.asarray(margins_M, dtype=np.float64)
    extra_M, cluster_M = np.asarray(extra_M, dtype=np.float64), np.asarray(cluster_M)

    def where(which_M: np.ndarray) -> Accuracy:
        return accuracy(margins_M[which_M], cluster_M[which_M], resamples=resamples, seed=seed)

    known_M = np.isfinite(margins_M) & np.isfinite(extra_M)
    margins, extra = margins_M[known_M], extra_M[known_M]
    told = (margins != 0) & (extra != 0)
    enough = len(margins) >= _FEWEST
    return LengthBias(
        unit=unit,
        better_longer=where(extra_M > 0),
        better_shorter=where(extra_M < 0),
        better_equal=where(extra_M == 0),
        prefers_longer=_share((margins > 0) == (extra > 0), told),
        longer_is_better=_share(extra > 0, told),
        spearman=spearman(margins, extra) if enough else math.nan,
        pearson=pearson(margins, extra) if enough else math.nan,
    )


def _share(hits: np.ndarray, among: np.ndarray) -> float:
    return float(hits[among].mean()) if among.any() else math.nan
