"""A reward's order of K responses against a given one, row by row."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["best_of_n_hit", "kendall_tau"]


def best_of_n_hit(scores_K: ArrayLike, gold_K: ArrayLike) -> float:
    """1 where the highest score is a best response's, 0 where not; NaN where a score is missing.

    Where several share the highest score, the share of best ones among them: what a fair draw
    among these would bring.
    """
    scores_K, gold_K = np.asarray(scores_K, np.float64), np.asarray(gold_K, np.float64)
    if not len(scores_K) or not np.isfinite(scores_K).all():
        return math.nan
    top_K = scores_K == scores_K.max()
    return float((gold_K[top_K] == gold_K.max()).mean())


def kendall_tau(scores_K: ArrayLike, gold_K: ArrayLike) -> float:
    """τ-b (Kendall 1945), in [−1, 1]; NaN where a score is missing or one side does not vary."""
    scores_K, gold_K = np.asarray(scores_K, np.float64), np.asarray(gold_K, np.float64)
    if not np.isfinite(scores_K).all():
        return math.nan
    first_M, second_M = np.triu_indices(len(scores_K), 1)
    score_M = np.sign(scores_K[first_M] - scores_K[second_M])
    gold_M = np.sign(gold_K[first_M] - gold_K[second_M])
    size = math.sqrt(float(np.abs(score_M).sum()) * float(np.abs(gold_M).sum()))
    return float((score_M * gold_M).sum()) / size if size else math.nan
