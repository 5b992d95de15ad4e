"""How much of the verdict is length."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rewards.compose.spearman import pearson, spearman
from rewards.evaluation.accuracy import Accuracy, accuracy
from rewards.evaluation.bootstrap import RESAMPLES

__all__ = ["LengthBias", "length_bias"]

_FEWEST = 3  # fewer points have no correlation worth a name


@dataclass(frozen=True, slots=True)
class LengthBias:
    """Of the pairs whose two lengths are known.

    Args:
        longer, shorter, equal: accuracy where the better response is that.
        prefers_longer: share of the pairs of different length, ties apart, in which the longer
            response wins; `longer_is_better` is the same share by the labels.
        spearman, pearson: correlation of the margin with the better response's extra length, 0
            for a reward that length tells nothing about; NaN where one of them does not vary.
    """

    longer: Accuracy
    shorter: Accuracy
    equal: Accuracy
    prefers_longer: float
    longer_is_better: float
    spearman: float
    pearson: float


def length_bias(
    margins_M: ArrayLike,
    extra_M: ArrayLike,
    cluster_M: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> LengthBias:
    """`extra_M` is the length of the better response minus that of the worse, NaN if not known."""
    margins_M = np.asarray(margins_M, dtype=np.float64)
    extra_M, cluster_M = np.asarray(extra_M, dtype=np.float64), np.asarray(cluster_M)

    def where(which_M: np.ndarray) -> Accuracy:
        return accuracy(margins_M[which_M], cluster_M[which_M], resamples=resamples, seed=seed)

    known_M = np.isfinite(margins_M) & np.isfinite(extra_M)
    margins, extra = margins_M[known_M], extra_M[known_M]
    told = (margins != 0) & (extra != 0)
    enough = len(margins) >= _FEWEST
    return LengthBias(
        longer=where(extra_M > 0),
        shorter=where(extra_M < 0),
        equal=where(extra_M == 0),
        prefers_longer=_share((margins > 0) == (extra > 0), told),
        longer_is_better=_share(extra > 0, told),
        spearman=spearman(margins, extra) if enough else math.nan,
        pearson=pearson(margins, extra) if enough else math.nan,
    )


def _share(hits: np.ndarray, among: np.ndarray) -> float:
    return float(hits[among].mean()) if among.any() else math.nan
