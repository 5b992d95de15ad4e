"""Draw random subsets of K of each prompt's stored samples, and apply filters within them.

Axes in names: Q prompts that have K samples or more, K samples of a subset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from raft.selection.filters import Filters, mask_unselectable
from raft.stored.pool import Pool

__all__ = ["Subset", "random_order", "selectable", "subset"]

_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class Subset:
    """The prompts, and which of their samples are in the subset, in the order drawn."""

    prompts_Q: NDArray[np.int64]
    samples_QK: NDArray[np.int64]

    def of(self, values_PN: NDArray[_T]) -> NDArray[_T]:
        """Return the (Q, K) values of the subset."""
        return values_PN[self.prompts_Q[:, None], self.samples_QK]


def random_order(pool: Pool, seed: int) -> NDArray[np.int64]:
    """(P, N): each prompt's samples in random order, places that were not drawn last.

    The first K are a random subset. The subset for a smaller K lies within that for a larger one,
    so that two K differ by K and not by chance.
    """
    keys_PN = np.random.default_rng(seed).random(pool.drawn_PN.shape)
    return np.where(pool.drawn_PN, keys_PN, np.inf).argsort(axis=1)


def subset(pool: Pool, k: int, order_PN: NDArray[np.int64]) -> Subset:
    """Take the first K of an order; prompts with fewer samples are skipped."""
    prompts_Q = np.flatnonzero(pool.drawn_PN.sum(axis=1) >= k)
    # ties go to the sample drawn first
    return Subset(prompts_Q, np.sort(order_PN[prompts_Q, :k], axis=1))


def selectable(
    pool: Pool, chosen: Subset, score_QK: NDArray[np.float64], filters: Filters
) -> NDArray[np.float64]:
    """(Q, K) scores of a subset, NaN for what the filters make unselectable in it.

    The same as `mask_unselectable` on the subset's texts: filters that look at the text alone were
    applied when the pool was read; spread and repetition depend on the subset.
    """
    min_score, min_spread = filters.get("min_score"), filters.get("min_spread")
    if min_score is not None or min_spread is not None:
        blanks = [[""] * score_QK.shape[1]] * len(score_QK)
        score_QK, _ = mask_unselectable(
            score_QK, blanks, min_score=min_score, min_spread=min_spread
        )
    score_QK = np.where(chosen.of(pool.refused_PN), np.nan, score_QK)
    if filters.get("unique"):
        first_QK = chosen.of(pool.first_PN)
        # most prompts have no two equal responses
        twice_Q = (np.diff(np.sort(first_QK, axis=1), axis=1) == 0).any(axis=1)
        texts = [list(map(str, row)) for row in first_QK[twice_Q].tolist()]
        score_QK[twice_Q], _ = mask_unselectable(score_QK[twice_Q], texts, unique=True)
    return score_QK
