"""Reduce the members' weighted scores of one sample to one number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

__all__ = ["REDUCTIONS", "Reduction", "reduce_scores"]

Reduction = Literal["sum", "mean", "min", "mean_minus_std"]
REDUCTIONS = ("sum", "mean", "min", "mean_minus_std")


def reduce_scores(values_M: Sequence[float], reduction: Reduction, std_weight: float) -> float:
    """Reduce M weighted scores to one.

    mean_minus_std is mean − std_weight · std with the population's std over the members (ddof 0:
    the members are the whole ensemble). Mean, worst case and a penalty on disagreement are the
    ensembles of Coste et al. 2023 (arXiv 2310.02743), whose penalty is on the variance: a std
    keeps the reward's unit, so that its weight means the same for every reward.

    Sums are exact before they are rounded (`math.fsum`): the order of members changes no bit.
    Raises OverflowError where a sum is beyond a float.
    """
    if reduction == "min":
        return min(values_M)
    if reduction == "sum":
        return math.fsum(values_M)
    mean = math.fsum(values_M) / len(values_M)
    if reduction == "mean":
        return mean
    return mean - std_weight * population_std(values_M)


def population_std(values_N: Sequence[float]) -> float:
    """Return sqrt(mean (x − mean x)²), exactly 0 when all are equal in spite of rounding."""
    if min(values_N) == max(values_N):
        return 0.0
    mean = math.fsum(values_N) / len(values_N)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values_N) / len(values_N))
