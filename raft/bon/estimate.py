"""Estimate what the best of n samples is worth, for every n, from one pool of N samples.

The estimate is the expectation over all subsets of size n rather than the first n samples: it is
unbiased and has the least variance that the pool allows (a U-statistic: Hoeffding 1948). Axes in
names: P prompts, N samples of one prompt, S values of n.

A sample whose score is NaN or infinite cannot be selected, so a prompt's pool is its M finite
samples, and the value for n > M is NaN. Among equal scores one is selected at random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewards.evaluation.stats import RESAMPLES, interval95, resampled_ratios

__all__ = [
    "Curve",
    "CurveRow",
    "Estimate",
    "Point",
    "Series",
    "best_of_n_curve",
    "best_of_n_weights",
    "cell",
    "estimate",
    "expected_best_of_n",
    "expected_best_of_ns",
    "kl_best_of_n",
]

Floats = NDArray[np.float64]


class Estimate(TypedDict):
    """A mean and the ends of its 95 % interval; None where unknown, since JSON has no NaN."""

    mean: float | None
    low: float | None
    high: float | None


class Point(Estimate):
    """A value of the curve at one n, and how many prompts it is a mean over."""

    prompts: int


class CurveRow(TypedDict):
    """The curve at one n. `proxy` is absent where the score that selects has no mean."""

    n: int
    kl: float
    proxy: NotRequired[Point]
    gold: NotRequired[Point]


def estimate(mean: float, low: float, high: float) -> Estimate:
    """Return a mean and the ends of its interval for JSON: NaN and infinity become None."""
    return {"mean": _finite(mean), "low": _finite(low), "high": _finite(high)}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Series:
    """For each n: the mean over prompts, the ends of its 95 % interval, the number of prompts."""

    mean_S: Floats
    low_S: Floats
    high_S: Floats
    prompts_S: NDArray[np.int64]

    def point(self, s: int) -> Point:
        """Return the value at the s-th n."""
        found = estimate(self.mean_S[s], self.low_S[s], self.high_S[s])
        return {**found, "prompts": int(self.prompts_S[s])}


@dataclass(frozen=True, slots=True)
class Curve:
    """The best-of-n curve: `proxy` is the score that selects, `gold` is measured beside it."""

    n_S: NDArray[np.int64]
    kl_S: Floats
    proxy: Series
    gold: Series | None = None

    def rows(self) -> list[CurveRow]:
        """Return one JSON-ready row per n."""
        found: list[CurveRow] = []
        for s, n in enumerate(self.n_S):
            row: CurveRow = {"n": int(n), "kl": float(self.kl_S[s]), "proxy": self.proxy.point(s)}
            if self.gold is not None:
                row["gold"] = self.gold.point(s)
            found.append(row)
        return found


def kl_best_of_n(n: int) -> float:
    """Return the KL of the best-of-n policy from the one that draws, in nats: ln n − (n−1)/n.

    An upper bound, which is nearly reached where no two responses are equal (Beirami et al. 2024,
    arXiv 2401.01879); the form in use since Stiennon et al. 2020. Raises ValueError for n < 1.
    """
    if n < 1:
        raise ValueError(f"n must be 1 or more, and is {n}")
    return math.log(n) - (n - 1) / n


def best_of_n_weights(count: int, n: int) -> Floats:
    """Return (count,) chances that the i-th smallest is the best of a random subset of size n.

    They are C(i−1, n−1) / C(count, n), i = 1 … count. Raises ValueError unless 1 <= n <= count.
    """
    return _weights_SN(count, np.array([n]))[0]


def expected_best_of_n(scores_PN: ArrayLike, n: int, values_PN: ArrayLike | None = None) -> Floats:
    """Return (P,) expected values of the sample with the best score among n of a prompt's samples.

    The expectation is over all subsets of size n. Values default to the scores. A sample whose
    score or value is not finite is not in the pool; NaN for a prompt whose pool is smaller than n.

    Raises ValueError for n < 1, or arrays that are not of one shape (P, N).
    """
    return expected_best_of_ns(scores_PN, [n], values_PN)[:, 0]


def expected_best_of_ns(
    scores_PN: ArrayLike, ns: Sequence[int], values_PN: ArrayLike | None = None
) -> Floats:
    """Return (P, S): `expected_best_of_n` for each of the S values `ns`, sorting the scores once.

    Raises ValueError as it does.
    """
    scores_PN = _array(scores_PN)
    n_S = np.asarray(ns, dtype=np.int64)
    if n_S.ndim != 1 or (n_S < 1).any():
        raise ValueError(f"every n must be 1 or more: {list(ns)}")
    values_PN = scores_PN if values_PN is None else _array(values_PN)
    if values_PN.shape != scores_PN.shape:
        raise ValueError(f"values are {values_PN.shape} and scores {scores_PN.shape}")
    scores_PN, values_PN, size_P = _sorted_pools(scores_PN, values_PN)
    found_PS = np.full((len(scores_PN), len(n_S)), np.nan)
    for size in np.unique(size_P[size_P > 0]):
        these_P, known_S = size_P == size, n_S <= size
        weights_SN = _weights_SN(int(size), n_S[known_S])
        found_PS[np.ix_(these_P, known_S)] = values_PN[these_P, :size] @ weights_SN.T
    return found_PS


def best_of_n_curve(
    scores_PN: ArrayLike,
    ns: Sequence[int] | None = None,
    gold_PN: ArrayLike | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Curve:
    """Estimate the best-of-n curve at `ns` (default 1 … N): means over prompts, 95 % intervals.

    The intervals come from a bootstrap over prompts, because the samples of one prompt are not
    independent. Every n, proxy and gold scores alike, uses the same resampled prompts. A prompt
    with fewer than n finite samples is skipped at that n; `prompts_S` counts the others.

    Raises ValueError as `expected_best_of_n` does.
    """
    scores_PN = _array(scores_PN)
    n_S = np.asarray(range(1, scores_PN.shape[1] + 1) if ns is None else ns, dtype=np.int64)
    measured = [None] if gold_PN is None else [None, gold_PN]
    found = [expected_best_of_ns(scores_PN, n_S.tolist(), value_PN) for value_PN in measured]
    kl_S = np.array([kl_best_of_n(int(n)) for n in n_S])
    return Curve(n_S, kl_S, *_series(found, resamples, seed))


def _weights_SN(count: int, n_S: NDArray[np.int64]) -> Floats:
    """Return the (S, count) weights of `best_of_n_weights`, one row for each n of `n_S`.

    Computed from w(count) = n / count and w(i) = w(i+1) · (i+1−n) / i, without factorials, so that
    nothing overflows; a weight too small for a float becomes 0, and those of i < n are exactly 0.
    Raises ValueError for an n outside 1 … count.
    """
    if ((n_S < 1) | (n_S > count)).any():
        raise ValueError(f"n must be from 1 to {count}, and is {n_S.tolist()}")
    i_N = np.arange(count - 1, 0, -1)
    steps_SN = np.maximum(i_N[None, :] + 1 - n_S[:, None], 0) / i_N[None, :]
    first_S1 = n_S[:, None] / count
    factors_SN = np.concatenate([first_S1, steps_SN], axis=1, dtype=np.float64)
    return np.multiply.accumulate(factors_SN, axis=1)[:, ::-1]


def _sorted_pools(scores_PN: Floats, values_PN: Floats) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return (P, N) scores and values of each prompt by ascending score, and (P,) sizes of pools.

    Samples outside the pool come last. Equal scores get the mean of their values, the expectation
    over a random order among them.
    """
    inside_PN = np.isfinite(scores_PN) & np.isfinite(values_PN)
    order_PN = np.where(inside_PN, scores_PN, np.inf).argsort(axis=1)
    scores_PN = np.take_along_axis(np.where(inside_PN, scores_PN, np.inf), order_PN, axis=1)
    values_PN = np.take_along_axis(np.where(inside_PN, values_PN, 0.0), order_PN, axis=1)
    return scores_PN, _shared(scores_PN, values_PN), inside_PN.sum(axis=1)


def _shared(scores_PN: Floats, values_PN: Floats) -> Floats:
    starts_PN = np.ones(scores_PN.shape, dtype=bool)
    starts_PN[:, 1:] = scores_PN[:, 1:] != scores_PN[:, :-1]
    block_PN = starts_PN.ravel().cumsum() - 1
    mean = np.bincount(block_PN, values_PN.ravel()) / np.bincount(block_PN)
    return np.asarray(mean[block_PN], dtype=np.float64).reshape(values_PN.shape)


def _series(found: list[Floats], resamples: int, seed: int) -> list[Series]:
    """Return one series for each (P, S) array; all use the same bootstrap resamples."""
    value_PT = np.concatenate(found, axis=1)
    known_PT = np.isfinite(value_PT)
    prompts_T = known_PT.sum(axis=0)
    top_PT = np.where(known_PT, value_PT, 0.0)
    with np.errstate(invalid="ignore"):
        mean_T = top_PT.sum(axis=0) / prompts_T
    draws_BT = resampled_ratios(
        top_PT, known_PT, np.arange(len(value_PT)), resamples=resamples, seed=seed
    )
    ends_T = [interval95(draws_BT[:, t], int(prompts_T[t])) for t in range(len(prompts_T))]
    low_T = np.array([end.low for end in ends_T])
    high_T = np.array([end.high for end in ends_T])
    cuts = np.cumsum([one.shape[1] for one in found])[:-1]
    columns = [np.split(one_T, cuts) for one_T in (mean_T, low_T, high_T, prompts_T)]
    return [Series(*parts) for parts in zip(*columns, strict=True)]


def _array(values_PN: ArrayLike) -> Floats:
    array = np.asarray(values_PN, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"must be (P, N) with N >= 1, and is {array.shape}")
    return array


def cell(point: Point) -> str:
    """Format a mean with its interval for a cell of a table; "-" where the mean is unknown."""
    mean, low, high = point["mean"], point["low"], point["high"]
    if mean is None:
        return "-"
    return f"{mean:.4g}" if low is None else f"{mean:.4g} [{low:.4g}, {high:.4g}]"
