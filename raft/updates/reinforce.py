"""The advantages of the update `reinforce`, which weights the clipped ratio of every response.

The advantage is the score less the mean of the prompt's others (RLOO, arXiv 2402.14740), or the
score standardised within the prompt (GRPO, arXiv 2402.03300). Both sum to 0 over a prompt's
responses.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from raft.selection.rules import Scores, as_scores


def leave_one_out(scores_PK: ArrayLike) -> Scores:
    """Return each score less the mean of its prompt's other finite scores, (P, K).

    It is 0 for the only finite score of a prompt, which has no baseline; NaN for a score that is
    not finite.
    """
    scores_PK = as_scores(scores_PK)
    finite_PK = np.isfinite(scores_PK)
    count_P1 = finite_PK.sum(axis=1, keepdims=True)
    total_P1 = np.where(finite_PK, scores_PK, 0).sum(axis=1, keepdims=True)
    others_PK = (total_P1 - np.where(finite_PK, scores_PK, 0)) / np.maximum(count_P1 - 1, 1)
    advantage_PK = np.where(count_P1 > 1, np.where(finite_PK, scores_PK, 0) - others_PK, 0)
    return np.where(finite_PK, advantage_PK, np.nan)
