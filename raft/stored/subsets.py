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
    """The prompts with K samples or more, and K samples of each, in the order they were drawn."""

    prompts_Q: NDArray[np.int64]
    samples_QK: NDArray[np.int64]

    def of(self, values_PN: NDArray[_T]) -> NDArray[_T]:
        """Return the (Q, K) values of the subset."""
        return values_PN[self.prompts_Q[:, None], self.samples_QK]


def random_order(pool: Pool, seed: int) -> NDArray[np.int64]:
    """Return (P, N) places of each prompt's samples in random order; empty places come last.

    The first K are a random subset. The subset of a smaller K lies within that of a larger one, so
    that results for two K differ because of K and less by chance.
    """
    keys_PN = np.random.default_rng(seed).random(pool.drawn_PN.shape)
    return np.where(pool.drawn_PN, keys_PN, np.inf).argsort(axis=1)


def subset(pool: Pool, k: int, order_PN: NDArray[np.int64]) -> Subset:
    """Take the first K of an order; prompts with fewer samples are skipped."""
    prompts_Q = np.flatnonzero(pool.drawn_PN.sum(axis=1) >= k)
    # in the order drawn, because among equal scores the sample drawn first is selected
    return Subset(prompts_Q, np.sort(order_PN[prompts_Q, :k], axis=1))


def selectable(
    pool: Pool, chosen: Subset, score_QK: NDArray[np.float64], filters: Filters
) -> NDArray[np.float64]:
    """Return the (Q, K) scores of a subset, NaN where the filters make a sample unselectable.

    The result is that of `mask_unselectable` on the subset's texts: filters that look at the text
    alone were applied when the pool was read; spread and repetition depend on the subset.
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
