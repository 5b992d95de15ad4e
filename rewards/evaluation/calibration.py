"""Measure whether σ(margin) is the probability that the better response is better.

It is by the model of Bradley & Terry (1952).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import root_scalar
from scipy.special import expit
from scipy.stats import rankdata

__all__ = ["Bin", "Calibration", "calibration"]

BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Pairs of about the same confidence: their mean confidence, and the share that was right."""

    pairs: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well σ(margin) fits, on the pairs that have a margin; NaN where there are none.

    Args:
        log_loss: mean of −log σ(margin); a reward that knows nothing has log 2 = 0.693.
        brier: mean of (1 − σ(margin))²; a reward that knows nothing has 0.25.
        ece: expected calibration error, mean |confidence − accuracy| over the bins (Naeini et al.
            2015), the confidence σ(|margin|) in [½, 1] and a tie half right.
        temperature: the number that makes the log-loss least when all margins are divided by it:
            above 1 the reward is too sure of itself. None where no positive number does.
        bins: by rising confidence, of equal counts as far as equal confidences stay together.
    """

    pairs: int
    log_loss: float
    brier: float
    ece: float
    temperature: float | None
    bins: tuple[Bin, ...]


def calibration(margins_M: ArrayLike, bins: int = BINS) -> Calibration:
    """Return the calibration of M margins in log-odds; margins that are not finite are skipped."""
    margins_M = np.asarray(margins_M, dtype=np.float64)
    margins_M = margins_M[np.isfinite(margins_M)]
    if not len(margins_M):
        return Calibration(0, math.nan, math.nan, math.nan, None, ())
    made = _bins(margins_M, bins)
    gaps = [one.pairs * abs(one.confidence - one.accuracy) for one in made]
    return Calibration(
        pairs=len(margins_M),
        log_loss=float(np.logaddexp(0, -margins_M).mean()),
        brier=float((expit(-margins_M) ** 2).mean()),
        ece=sum(gaps) / len(margins_M),
        temperature=_temperature(margins_M),
        bins=made,
    )


def _bins(margins_M: np.ndarray, bins: int) -> tuple[Bin, ...]:
    right_M = (margins_M > 0) + 0.5 * (margins_M == 0)
    # equal confidences share one rank and so one bin: which row came first must not matter
    rank_M = rankdata(np.abs(margins_M))
    bin_M = np.minimum((bins * (rank_M - 0.5) / len(margins_M)).astype(np.int64), bins - 1)
    confidence_M = expit(np.abs(margins_M))
    return tuple(
        Bin(int(in_M.sum()), float(confidence_M[in_M].mean()), float(right_M[in_M].mean()))
        for in_M in (bin_M == number for number in np.unique(bin_M))
    )


def _temperature(margins_M: np.ndarray) -> float | None:
    """Return the T of least log-loss of margins / T; None where no positive T has it.

    The log-loss is convex in 1/T, so its least value is where the slope is 0.
    """
    if not (margins_M < 0).any() or margins_M.mean() <= 0:
        return None  # the log-loss falls all the way to T = 0, or to an infinite T
    largest = float(np.abs(margins_M).max())
    scaled_M = margins_M / largest

    def gain(sharpness: float) -> float:
        """Return minus the slope of the log-loss in 1/T, at T = `largest` / `sharpness`."""
        return float((scaled_M * expit(-sharpness * scaled_M)).sum())

    high = 1.0
    while gain(high) >= 0:
        high *= 2
    return largest / root_scalar(gain, bracket=(0.0, high), xtol=1e-15 * high).root
