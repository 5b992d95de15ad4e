"""The update `reinforce`: every response by its advantage, through the clipped ratio.

The advantage is the score less that of the prompt's other responses (RLOO, arXiv 2402.14740), or
standardised within the prompt (GRPO, arXiv 2402.03300). Both sum to 0 over a prompt's responses.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from raft.selection.rules import Scores, as_scores


def leave_one_out(scores_PK: ArrayLike) -> Scores:
    """(P, K): a finite score less the mean of the prompt's other finite ones; NaN where not finite.

    A single score has no baseline, and so no advantage: 0.
    """
    scores_PK = as_scores(scores_PK)
    finite_PK = np.isfinite(scores_PK)
    count_P1 = finite_PK.sum(axis=1, keepdims=True)
    total_P1 = np.where(finite_PK, scores_PK, 0).sum(axis=1, keepdims=True)
    others_PK = (total_P1 - np.where(finite_PK, scores_PK, 0)) / np.maximum(count_P1 - 1, 1)
    advantage_PK = np.where(count_P1 > 1, np.where(finite_PK, scores_PK, 0) - others_PK, 0)
    return np.where(finite_PK, advantage_PK, np.nan)
