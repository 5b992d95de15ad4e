"""Spearman's rank correlation with average ranks for ties; compared with other libraries in tests.

Our own, because what would bring it is a dependency for this one formula.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["average_ranks", "pearson", "spearman"]


def spearman(x_N: ArrayLike, y_N: ArrayLike) -> float:
    """Pearson's correlation of the ranks, in [−1, 1]; NaN when either does not vary."""
    return pearson(average_ranks(x_N), average_ranks(y_N))


def average_ranks(values_N: ArrayLike) -> NDArray[np.float64]:
    """(N,) ranks from 1, equal values sharing the mean of theirs. Values are finite."""
    values_N = np.asarray(values_N, dtype=np.float64)
    order_N = np.argsort(values_N, kind="stable")
    sorted_N = values_N[order_N]
    # one run per distinct value: its ranks are start + 1 … end
    starts = np.flatnonzero(np.concatenate([[True], sorted_N[1:] != sorted_N[:-1]]))
    ends = np.append(starts[1:], len(values_N))
    ranks_N = np.empty(len(values_N))
    ranks_N[order_N] = np.repeat((starts + 1 + ends) / 2, ends - starts)
    return ranks_N


def pearson(x_N: NDArray[np.float64], y_N: NDArray[np.float64]) -> float:
    """cov(x, y) / (std x · std y); NaN when either does not vary."""
    x_N, y_N = x_N - x_N.mean(), y_N - y_N.mean()
    size = float(np.sqrt((x_N @ x_N) * (y_N @ y_N)))
    return float(x_N @ y_N) / size if size else float("nan")
