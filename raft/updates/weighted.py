"""The update `weighted`: every response is in the loss, with a weight computed from its score.

With exp(s/T) this is reward-weighted regression (Peters & Schaal 2007; AWR, arXiv 1910.00177); as T
goes to 0, all weight goes to the best response, which is RAFT. The likelihood has no ratio: the
trainer maximises Σ wᵢ log p(responseᵢ), where weights of mean 1 leave the loss at SFT's scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from raft.selection.rules import Scores, as_scores


def exponential(scores_PK: ArrayLike, temperature: float) -> Scores:
    """Return the softmax of each prompt's finite scores / `temperature`, (P, K); NaN for others."""
    scores_PK = as_scores(scores_PK)
    finite_PK = np.isfinite(scores_PK)
    best_P1 = np.where(finite_PK, scores_PK, -np.inf).max(axis=1, keepdims=True)
    below_PK = np.where(finite_PK, scores_PK - np.where(np.isfinite(best_P1), best_P1, 0), -np.inf)
    mass_PK = np.exp(below_PK / temperature)
    total_P1 = mass_PK.sum(axis=1, keepdims=True)
    return np.where(finite_PK, mass_PK / np.where(total_P1 > 0, total_P1, 1), np.nan)


def standardized(scores_PK: ArrayLike) -> Scores:
    """Return (score − mean) / std of each score among its prompt's finite scores, (P, K).

    It is 0 where all of them are equal, or a score is the only one; NaN for a score that is not
    finite.
    """
    scores_PK = as_scores(scores_PK)
    finite_PK = np.isfinite(scores_PK)
    count_P1 = np.maximum(finite_PK.sum(axis=1, keepdims=True), 1)
    mean_P1 = np.where(finite_PK, scores_PK, 0).sum(axis=1, keepdims=True) / count_P1
    apart_PK = np.where(finite_PK, scores_PK - mean_P1, 0)
    std_P1 = np.sqrt((apart_PK**2).sum(axis=1, keepdims=True) / count_P1)
    # what rounding leaves of equal scores is no spread
    differ_P1 = std_P1 > 1e-12 * np.maximum(np.abs(mean_P1), 1)
    standard_PK = np.where(differ_P1, apart_PK / np.where(differ_P1, std_P1, 1), 0)
    return np.where(finite_PK, standard_PK, np.nan)
