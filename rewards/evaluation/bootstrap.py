"""Intervals by resampling whole prompts: the pairs of one prompt are not independent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["RESAMPLES", "Difference", "Interval", "interval95", "paired", "resampled_ratios"]

RESAMPLES = 2000
_NORMAL = NormalDist()
_AT_A_TIME = 4_000_000  # draws in memory


@dataclass(frozen=True, slots=True)
class Interval:
    """NaN where nothing is known."""

    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True, slots=True)
class Difference:
    """Accuracy of a minus that of b on the pairs that both have a margin for.

    `a_better` is the share of resamples in which a is ahead, one without difference counting half.
    """

    difference: float
    interval: Interval
    a_better: float
    pairs: int
    clusters: int


def resampled_ratios(
    top_MS: ArrayLike,
    bottom_MS: ArrayLike,
    cluster_M: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """(B, S): Σ top / Σ bottom of each of S columns, in B resamples of whole clusters.

    All columns see the same draws, so that they can be compared. A resample in which Σ bottom is 0
    is NaN (cluster bootstrap: Davison & Hinkley 1997, section 3.8).
    """
    clusters, at_M = np.unique(np.asarray(cluster_M), return_inverse=True)
    count = len(clusters)
    top_CS, bottom_CS = _sums(top_MS, at_M, count), _sums(bottom_MS, at_M, count)
    rng = np.random.default_rng(seed)
    step = max(1, _AT_A_TIME // max(1, count))
    found = []
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn_BC = rng.integers(0, count, size=(rows, count)) + np.arange(rows)[:, None] * count
        times_BC = np.bincount(drawn_BC.ravel(), minlength=rows * count).reshape(rows, count)
        with np.errstate(invalid="ignore"):
            found.append((times_BC @ top_CS) / (times_BC @ bottom_CS))
    return np.concatenate(found)


def interval95(draws_B: np.ndarray, clusters: int) -> Interval:
    """The expanded percentile interval of B resampled values (Hesterberg 2015, section 3.3).

    Plain percentiles are too narrow for few clusters, by as much as a normal interval is against
    Student's t one and by √(n/(n−1)); the tails are taken further out by both.
    """
    draws_B = draws_B[np.isfinite(draws_B)]
    if clusters < 2 or not len(draws_B):
        return Interval(math.nan, math.nan)
    tail = _NORMAL.cdf(-math.sqrt(clusters / (clusters - 1)) * _student(clusters - 1))
    low, high = np.quantile(draws_B, [tail, 1 - tail])
    return Interval(float(low), float(high))


def paired(
    margins_a_M: ArrayLike,
    margins_b_M: ArrayLike,
    cluster_M: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """How far a's accuracy (a tie is lost) is ahead of b's, both on the same resampled prompts."""
    a_M, b_M = np.asarray(margins_a_M), np.asarray(margins_b_M)
    both_M = np.isfinite(a_M) & np.isfinite(b_M)
    ahead_M = (a_M[both_M] > 0).astype(np.float64) - (b_M[both_M] > 0)
    cluster_M = np.asarray(cluster_M)[both_M]
    if not len(ahead_M):
        return Difference(math.nan, Interval(math.nan, math.nan), math.nan, 0, 0)
    clusters = len(np.unique(cluster_M))
    draws_B = resampled_ratios(
        ahead_M[:, None], np.ones((len(ahead_M), 1)), cluster_M, resamples=resamples, seed=seed
    )[:, 0]
    a_better = float(np.mean((draws_B > 0) + 0.5 * (draws_B == 0)))
    interval = interval95(draws_B, clusters)
    return Difference(float(ahead_M.mean()), interval, a_better, len(ahead_M), clusters)


def _sums(values_MS: ArrayLike, at_M: np.ndarray, count: int) -> np.ndarray:
    values_MS = np.asarray(values_MS, dtype=np.float64)
    columns = [np.bincount(at_M, column_M, minlength=count) for column_M in values_MS.T]
    return np.stack(columns, axis=1)


def _student(degrees: int) -> float:
    """The 0.975 quantile of Student's t to 2 % from 4 degrees on (Abramowitz & Stegun 26.7.5)."""
    z = _NORMAL.inv_cdf(0.975)
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
