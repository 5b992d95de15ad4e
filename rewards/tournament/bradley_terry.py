"""The Bradley-Terry strengths that best explain given comparisons: numpy in, numpy out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewards.tournament.types import Pair

__all__ = ["PRIOR_PRECISION", "bradley_terry"]

# a normal prior of standard deviation 1000 logits: without effect among responses that both win and
# lose, it keeps one that wins everything finite (about 12 logits ahead of its one opponent)
PRIOR_PRECISION = 1e-6
_STEPS, _SMALLEST_STEP = 200, 1e-11
Floats = NDArray[np.float64]


def bradley_terry(
    n: int,
    pairs: Sequence[Pair],
    probability_M: ArrayLike,
    prior_precision: float = PRIOR_PRECISION,
) -> Floats:
    """Return the strengths (n,) in logits, of mean 0, that maximise the (penalised) likelihood

        Σ_m [p_m log σ(θ_i − θ_j) + (1 − p_m) log σ(θ_j − θ_i)] − ½ · prior_precision · Σ θ²

    over the M pairs (i, j) with P(i better) = p_m (Bradley & Terry 1952; soft outcomes enter as
    shares of a win). The function is strictly concave: Newton's method with step halving finds
    its one maximum. Responses that no chain of comparisons connects are comparable only through
    the prior; where all pairs are played once, the order is that of the mean probabilities.
    """
    pairs_M2 = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    first_M, second_M = pairs_M2[:, 0], pairs_M2[:, 1]
    p_M = np.asarray(probability_M, dtype=np.float64)
    theta_N = np.zeros(n)
    value = _objective(theta_N, first_M, second_M, p_M, prior_precision)
    for _ in range(_STEPS):
        step_N = _newton_step(theta_N, first_M, second_M, p_M, prior_precision)
        while True:
            trial = _objective(theta_N + step_N, first_M, second_M, p_M, prior_precision)
            if trial >= value or np.abs(step_N).max(initial=0.0) < _SMALLEST_STEP:
                break
            step_N = step_N / 2
        theta_N, value = theta_N + step_N, trial
        if np.abs(step_N).max(initial=0.0) < _SMALLEST_STEP:
            break
    return theta_N - theta_N.mean()


def _newton_step(theta_N: Floats, i_M, j_M, p_M: Floats, precision: float) -> Floats:
    from scipy.special import expit

    n = len(theta_N)
    win_M = expit(theta_N[i_M] - theta_N[j_M])
    slope_N = np.bincount(i_M, p_M - win_M, n) - np.bincount(j_M, p_M - win_M, n)
    weight_M = win_M * (1 - win_M)
    cross_NN = np.bincount(i_M * n + j_M, weight_M, n * n).reshape(n, n)
    cross_NN = cross_NN + cross_NN.T
    curvature_NN = np.diag(cross_NN.sum(axis=1) + precision) - cross_NN
    step_N = np.linalg.solve(curvature_NN, slope_N - precision * theta_N)
    return np.asarray(step_N, dtype=np.float64)


def _objective(theta_N: Floats, i_M, j_M, p_M: Floats, precision: float) -> float:
    gap_M = theta_N[i_M] - theta_N[j_M]
    loss_M = p_M * np.logaddexp(0, -gap_M) + (1 - p_M) * np.logaddexp(0, gap_M)
    return float(-loss_M.sum() - precision / 2 * (theta_N**2).sum())
