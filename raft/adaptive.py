"""Decide how many samples each prompt of a batch gets: drawn in waves, more where more pays.

A prompt stops when one more wave is not expected to raise its best score by the cost of it. That is
the optimal rule of Pandora's box, where one stops at a score whose expected excess equals the cost
(Weitzman 1979; for best-of-n Kalayci et al. 2025, arXiv 2510.01394). Where the budget does not
allow all other waves, those of the greatest gain are drawn (as in AdaBoN: Raman et al. 2025, arXiv
2505.12050).

What a prompt's next scores will be is estimated by a Student t distribution around its own mean
with its own spread, both drawn towards those of the batch. Every decision is a function of the
scores so far, and so the same after a kill. Axes in names: P prompts, K samples, W further waves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raft.selection.rules import Scores as Floats
from raft.selection.rules import padded
from rollout.data.samples import Scores
from rollout.types import setting

__all__ = ["Adaptive", "Wave", "expected_gain", "next_wave"]

# so many scores of a prompt's own count as much as the batch's mean, and its spread
_MEAN_OF_BATCH, _SPREAD_OF_BATCH = 1.0, 3.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Samples come in waves; `sampling.k` is what a prompt may have on average."""

    first: int = setting(4, "samples of every prompt; without this section all have k", ge=2)
    wave: int = setting(4, "samples of each further wave", ge=1)
    most: int | None = setting(None, "most samples of a prompt; default: 4 k", ge=2)
    cost: float = setting(
        0.05,
        "a prompt stops where one more sample is expected to raise its best score by less, in "
        "standard deviations of a prompt's scores; 0: where k is spent",
        ge=0,
        allow_inf_nan=False,
    )


@dataclass(frozen=True, slots=True)
class Wave:
    """The prompts that go on, by their rows, and how many samples each of them gets."""

    rows: NDArray[np.int64]
    size: int


def next_wave(scores: Sequence[Scores | Floats], adaptive: Adaptive, k: int) -> Wave:
    """Decide which prompts get a further wave, from `scores`, one list per prompt.

    Only prompts that the last wave drew for can go on. A wave without rows ends the sampling.
    """
    drawn_P = np.array([len(row) for row in scores])
    drawn = int(drawn_P.max())
    open_P = np.flatnonzero(drawn_P == drawn)
    most = adaptive.most or 4 * k
    sizes_W = np.diff(np.append(np.arange(drawn, most, adaptive.wave), most))
    left = k * len(scores) - int(drawn_P.sum())
    if not len(sizes_W) or left < sizes_W[0]:
        return Wave(open_P[:0], 0)
    scores_PK = padded(scores)
    gain_PW = _gains(scores_PK, adaptive.first, open_P, sizes_W) / sizes_W
    # waves by falling gain until the budget is spent; among equals the first waves come first
    order = np.argsort(-gain_PW.T, axis=None, kind="stable")
    spent = np.repeat(sizes_W, len(open_P))[order].cumsum()
    paid_WP = np.zeros(gain_PW.T.shape, dtype=bool)
    paid_WP.flat[order[spent <= left]] = True
    unit = np.sqrt(_Spread.of(scores_PK[:, : adaptive.first]).pooled)
    worth_P = (gain_PW[:, 0] > adaptive.cost * unit) | (adaptive.cost == 0)
    return Wave(open_P[paid_WP[0] & worth_P], int(sizes_W[0]))


def expected_gain(
    best_P: Floats,
    centre_P: Floats,
    scale_P: Floats,
    freedom_P: Floats,
    sizes_W: NDArray[np.int64],
    highest: float = np.inf,
) -> Floats:
    """Return E[max(best of n samples − `best_P`, 0)] as (P, W), for every n of `sizes_W`.

    Samples are of Student's t with these centres, scales and degrees of freedom, cut at `highest`.
    Computed by quadrature over the quantile u of the best: its density is n · u^(n−1).
    """
    from scipy.special import stdtr, stdtrit

    scale_P = np.maximum(scale_P, np.finfo(float).tiny)
    with np.errstate(over="ignore"):
        reached_P = stdtr(freedom_P, (best_P - centre_P) / scale_P)
    half_P1 = (1 - reached_P)[:, None] / 2
    u_PQ = reached_P[:, None] + half_P1 * (1 + _NODES)
    with np.errstate(invalid="ignore"):
        found_PQ = centre_P[:, None] + scale_P[:, None] * stdtrit(freedom_P[:, None], u_PQ)
    # where the quantile of the best is 1 nothing is above it
    excess_PQ = np.where(u_PQ < 1, np.minimum(found_PQ, highest) - best_P[:, None], 0.0)
    excess_PQ = half_P1 * _WEIGHTS * np.maximum(excess_PQ, 0.0)
    return np.stack([(excess_PQ * n * u_PQ ** (n - 1.0)).sum(axis=1) for n in sizes_W], axis=1)


@dataclass(frozen=True, slots=True)
class _Spread:
    """For each prompt: number, mean, and summed squares about the mean of its finite scores."""

    count_P: NDArray[np.int64]
    mean_P: Floats
    squares_P: Floats

    @classmethod
    def of(cls, scores_PK: Floats) -> _Spread:
        finite_PK = np.isfinite(scores_PK)
        count_P = finite_PK.sum(axis=1)
        mean_P = np.where(finite_PK, scores_PK, 0.0).sum(axis=1) / np.maximum(count_P, 1)
        squares_PK = np.where(finite_PK, scores_PK - mean_P[:, None], 0.0) ** 2
        return cls(count_P, mean_P, squares_PK.sum(axis=1))

    @property
    def freedom_P(self) -> Floats:
        return np.maximum(self.count_P - 1.0, 0.0)

    @property
    def pooled(self) -> float:
        """Return the variance within a prompt, pooled over prompts."""
        return float(self.squares_P.sum() / max(self.freedom_P.sum(), 1))


def _gains(
    scores_PK: Floats, first: int, open_P: NDArray[np.int64], sizes_W: NDArray[np.int64]
) -> Floats:
    """Return by how much each further wave is expected to raise a prompt's best score, as
    (open P, W), once the waves before it are drawn."""
    finite_PK, spread = np.isfinite(scores_PK), _Spread.of(scores_PK)
    if not finite_PK.any():
        return np.zeros((len(open_P), len(sizes_W)))
    lowest_P = np.where(finite_PK, scores_PK, np.inf).min(axis=1)
    # of a prompt without any score, the lowest there is
    best_P = np.where(finite_PK, scores_PK, lowest_P.min()).max(axis=1)
    # a highest score that several prompts reach is taken for the highest there is
    highest = float(best_P.max())
    highest = highest if (best_P == highest).sum() > 1 else np.inf
    weight_P = spread.count_P + _MEAN_OF_BATCH
    of_batch = float(spread.mean_P[spread.count_P > 0].mean())
    freedom_P = spread.freedom_P + _SPREAD_OF_BATCH
    variance_P = (_SPREAD_OF_BATCH * spread.pooled + spread.squares_P) / freedom_P
    total_PW = expected_gain(
        best_P[open_P],
        ((spread.count_P * spread.mean_P + _MEAN_OF_BATCH * of_batch) / weight_P)[open_P],
        np.sqrt(variance_P * (1 + 1 / weight_P))[open_P],
        freedom_P[open_P],
        sizes_W.cumsum(),
        highest,
    )
    equal_P = ((lowest_P == best_P) & (spread.count_P > 1))[open_P]
    rising = _gain_of_equals(scores_PK[:, :first], highest) * first
    drawn = finite_PK.shape[1]
    steps = rising / (drawn + 1 + np.arange(sizes_W.sum()))
    total_PW[equal_P] = steps.cumsum()[sizes_W.cumsum() - 1]
    total_PW[equal_P & (best_P[open_P] == highest)] = 0.0
    return np.diff(total_PW, axis=1, prepend=0.0)


def _gain_of_equals(scores_PK: Floats, highest: float) -> float:
    """Return by how much one sample raises the best of the others where these are all equal.

    It is the mean over every sample of a prompt's first wave, each left out of it in turn; 0 where
    no such sample differs.

    It tells a reward of few values, where equal scores say little, from a prompt to which the
    policy has one answer (Good 1953 counts what was seen once in this way).
    """
    scores_PK = scores_PK[np.isfinite(scores_PK).all(axis=1)]
    gain, cases = 0.0, 0
    for left_out in range(scores_PK.shape[1]):
        others_PK = np.delete(scores_PK, left_out, axis=1)
        level_P = others_PK[:, 0]
        equal_P = (others_PK == level_P[:, None]).all(axis=1) & (level_P < highest)
        gain += float(np.maximum(scores_PK[:, left_out] - level_P, 0.0)[equal_P].sum())
        cases += int(equal_P.sum())
    return gain / max(cases, 1)
