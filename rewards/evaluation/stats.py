"""Compute statistics of evaluations: intervals by resampling prompts, means, win rates, and more.

The pairs of one prompt are not independent, so whole prompts are resampled. Pure functions; scipy
is imported where it is used, because `raft run` imports this file and may need none of it.

Axes in names: P prompts, K samples of one prompt, M pairs, N values. A value that is NaN or
infinite stands for a missing reward: it is skipped here, and counted where it arose. A statistic
that cannot be known (the mean of nothing, the spread of one value) is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "RESAMPLES",
    "Difference",
    "DistinctN",
    "Interval",
    "best_of_k_mean",
    "clustered_mean_ci95",
    "distinct_n",
    "interval95",
    "mean_ci95",
    "paired",
    "pearson",
    "resampled_ratios",
    "spearman",
    "wilson95",
    "win_rate",
]

RESAMPLES = 2000
_AT_A_TIME = 4_000_000  # draws in memory


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval; both ends are NaN where nothing is known."""

    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True, slots=True)
class Difference:
    """Accuracy of a minus that of b, on the pairs for which both have a margin.

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
    """Return Σ top / Σ bottom of each of S columns, in B resamples of whole clusters: (B, S).

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
    """Return the expanded percentile interval of B resampled values (Hesterberg 2015, section 3.3).

    Plain percentiles are too narrow for few clusters, by as much as a normal interval is against
    Student's t one and by √(n/(n−1)); the tails are taken further out by both.
    """
    draws_B = draws_B[np.isfinite(draws_B)]
    if clusters < 2 or not len(draws_B):
        return Interval(math.nan, math.nan)
    from scipy.special import ndtr

    tail = ndtr(-math.sqrt(clusters / (clusters - 1)) * _t975(clusters - 1))
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
    """Return how far a's accuracy (a tie is lost) is ahead of b's on the same pairs.

    The interval resamples prompts, the same ones for both.
    """
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


def _t975(degrees: int) -> float:
    """Return the 0.975 quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


def mean_ci95(values: ArrayLike) -> tuple[float, float]:
    """Return (mean, half width of its 95 % interval) of independent values (N,), by Student's t.

    NaN stands for a mean of no value, and for the half width of fewer than two.
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    finite = array[np.isfinite(array)]
    if len(finite) == 0:
        return math.nan, math.nan
    mean = float(finite.mean())
    if len(finite) == 1:
        return mean, math.nan
    standard_error = float(finite.std(ddof=1)) / math.sqrt(len(finite))
    return mean, _t975(len(finite) - 1) * standard_error


def clustered_mean_ci95(scores_PK: ArrayLike) -> tuple[float, float]:
    """Return (mean, half width) over prompts of the mean score of each, scores (P, K).

    The K samples of a prompt are not independent: counted singly, they make the interval too narrow
    by up to sqrt(K). The prompts are, so each counts once (Miller 2024, arXiv 2411.00640).
    """
    return mean_ci95([_mean(row[np.isfinite(row)]) for row in _rows(scores_PK)])


def best_of_k_mean(scores_PK: ArrayLike) -> float:
    """Return the mean over prompts of the best finite score of each, scores (P, K)."""
    finite_rows = (row[np.isfinite(row)] for row in _rows(scores_PK))
    return _mean([row.max() for row in finite_rows if len(row)])


class DistinctN:
    """The distinct-n of texts that come one by one; memory grows with the vocabulary alone."""

    def __init__(self, n: int) -> None:
        """Start without texts, for n-grams of `n` words. Raises ValueError for n < 1."""
        if n < 1:
            raise ValueError(f"n must be 1 or more, and is {n}")
        self._n = n
        self._seen: set[tuple[str, ...]] = set()
        self._total = 0

    def add(self, text: str) -> None:
        words = text.split()
        grams = [tuple(words[i : i + self._n]) for i in range(len(words) - self._n + 1)]
        self._seen.update(grams)
        self._total += len(grams)

    @property
    def share(self) -> float:
        return len(self._seen) / self._total if self._total else math.nan


def distinct_n(texts: Iterable[str], n: int) -> float:
    """Return the share of distinct n-grams among all n-grams of the texts' words (Li et al. 2016).

    Raises ValueError for n < 1.
    """
    counter = DistinctN(n)
    for text in texts:
        counter.add(text)
    return counter.share


def win_rate(scores_a_P: ArrayLike, scores_b_P: ArrayLike) -> tuple[float, float]:
    """Return (share of prompts on which a scores higher, half width of its 95 % interval).

    A tie counts half; a prompt where either score is missing is skipped. The half width reaches to
    the farther end of Wilson's interval (1927), which unlike the t interval is not zero when one
    side wins every prompt.

    Raises ValueError where the two are not of one shape (P,).
    """
    a_P, b_P = np.asarray(scores_a_P, dtype=np.float64), np.asarray(scores_b_P, dtype=np.float64)
    if a_P.shape != b_P.shape or a_P.ndim != 1:
        raise ValueError(f"scores must be of one shape (P,), and are {a_P.shape} and {b_P.shape}")
    both_P = np.isfinite(a_P) & np.isfinite(b_P)
    a_P, b_P = a_P[both_P], b_P[both_P]
    if len(a_P) == 0:
        return math.nan, math.nan
    rate = float(np.mean((a_P > b_P) + 0.5 * (a_P == b_P)))
    interval = wilson95(rate * len(a_P), len(a_P))
    return rate, max(rate - interval.low, interval.high - rate)


def wilson95(wins: float, trials: int) -> Interval:
    """Return the 95 % interval of the share wins / trials (Wilson 1927), which stays in [0, 1].

    Unlike the normal interval it has a width where all trials have the same outcome. `wins` need
    not be whole: a tie may count half.
    """
    from scipy.special import ndtri

    z, rate = float(ndtri(0.975)), wins / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = (
        z
        / (1 + z * z / trials)
        * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    )
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def spearman(x_N: ArrayLike, y_N: ArrayLike) -> float:
    """Return the rank correlation in [−1, 1], equal values sharing a rank.

    NaN when either side does not vary.
    """
    from scipy.stats import rankdata

    return pearson(rankdata(x_N), rankdata(y_N))


def pearson(x_N: ArrayLike, y_N: ArrayLike) -> float:
    """Return the correlation in [−1, 1]; NaN when either side does not vary."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.corrcoef(np.asarray(x_N), np.asarray(y_N))[0, 1])


def _rows(scores_PK: ArrayLike) -> np.ndarray:
    array = np.asarray(scores_PK, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"scores must be (P, K), and are {array.shape}")
    return array


def _mean(values: ArrayLike) -> float:
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()) if len(array) else math.nan
