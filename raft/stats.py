"""Means with 95 % confidence intervals, win rates and diversity: pure functions.

Axes in names: P prompts, K samples of one prompt. A value that is NaN or infinite stands for a
reward that is missing: it is left out here, and counted where it arose. What cannot be known (the
mean of nothing, the spread of one value) is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

_EXACT_UP_TO = 200


def mean_ci95(values: ArrayLike) -> tuple[float, float]:
    """(mean, half width of its 95 % interval) by Student's t, for independent values (N,)."""
    array = np.asarray(values, dtype=np.float64).ravel()
    finite = array[np.isfinite(array)]
    if len(finite) == 0:
        return math.nan, math.nan
    mean = float(finite.mean())
    if len(finite) == 1:
        return mean, math.nan
    standard_error = float(finite.std(ddof=1)) / math.sqrt(len(finite))
    return mean, t_quantile(0.975, len(finite) - 1) * standard_error


def clustered_mean_ci95(scores_PK: ArrayLike) -> tuple[float, float]:
    """(mean, half width) over prompts of the mean score of each, scores (P, K).

    The K samples of a prompt are not independent: counted singly, they make the interval too
    narrow by up to sqrt(K). The prompts are, so each counts once (Miller 2024, arXiv 2411.00640).
    """
    return mean_ci95([_mean(row[np.isfinite(row)]) for row in _rows(scores_PK)])


def best_of_k_mean(scores_PK: ArrayLike) -> float:
    """Mean over prompts of the best finite score of each, scores (P, K)."""
    finite_rows = (row[np.isfinite(row)] for row in _rows(scores_PK))
    return _mean([row.max() for row in finite_rows if len(row)])


class DistinctN:
    """distinct-n of texts that come one by one: memory grows with the vocabulary, not the texts."""

    def __init__(self, n: int) -> None:
        """Raises ValueError for n < 1."""
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
    """Share of distinct n-grams among all n-grams of words of the texts (Li et al. 2016).

    Raises ValueError for n < 1.
    """
    counter = DistinctN(n)
    for text in texts:
        counter.add(text)
    return counter.share


def win_rate(scores_a_P: ArrayLike, scores_b_P: ArrayLike) -> tuple[float, float]:
    """(share of prompts on which a scores higher, half width of its 95 % interval).

    A tie counts half; a prompt where either score is missing is left out. The half width reaches
    to the farther end of Wilson's interval (1927), which unlike the t interval is not zero when
    one side wins every prompt.

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
    low, high = _wilson95(rate, len(a_P))
    return rate, max(rate - low, high - rate)


@lru_cache(maxsize=1024)
def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t with whole `degrees` of freedom, for probability in [0.5, 1).

    Exact (Abramowitz & Stegun 26.7.3-4, inverted by bisection) up to 200 degrees of freedom, from
    there the Cornish-Fisher expansion (26.7.5), which is then good to eleven digits.
    """
    if not 0.5 <= probability < 1 or degrees < 1:
        raise ValueError(f"needs 0.5 <= p < 1 and degrees >= 1, not {probability}, {degrees}")
    if degrees > _EXACT_UP_TO:
        return _t_expansion(probability, degrees)
    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        if _t_central_probability(middle, degrees) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(low)


def _t_central_probability(angle: float, degrees: int) -> float:
    """P(|T| <= t) where t = sqrt(degrees) tan(angle): a finite sum for whole degrees."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0
    for i in range(1 + odd, degrees, 2):
        total += term
        term *= i / (i + 1) * cosine * cosine
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def _t_expansion(probability: float, degrees: int) -> float:
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, start=1))


def _wilson95(rate: float, n: int) -> tuple[float, float]:
    z = NormalDist().inv_cdf(0.975)
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def _rows(scores_PK: ArrayLike) -> np.ndarray:
    array = np.asarray(scores_PK, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"scores must be (P, K), and are {array.shape}")
    return array


def _mean(values: ArrayLike) -> float:
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()) if len(array) else math.nan
