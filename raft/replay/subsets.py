"""Random subsets of K of each prompt's stored samples, and what may be selected in them.

Axes in names: Q prompts that have K samples or more, K samples of a subset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raft.replay.pool import BY_SCORE, Pool
from raft.selection import mask_unselectable

__all__ = ["Subset", "random_order", "selectable", "subset"]


@dataclass(frozen=True, slots=True, eq=False)
class Subset:
    """prompts_Q: which prompts; samples_QK: which of their samples, in the order drawn."""

    prompts_Q: NDArray[np.int64]
    samples_QK: NDArray[np.int64]

    def of(self, values_PN: NDArray[Any]) -> NDArray[Any]:
        """(Q, K) of (P, N)."""
        return values_PN[self.prompts_Q[:, None], self.samples_QK]


def random_order(pool: Pool, seed: int) -> NDArray[np.int64]:
    """(P, N): each prompt's samples in random order, those not drawn last.

    The first K are a random subset; for two K the smaller lies within the larger, so that what they
    differ in is no luck of the draw.
    """
    keys_PN = np.random.default_rng(seed).random(pool.drawn_PN.shape)
    return np.where(pool.drawn_PN, keys_PN, np.inf).argsort(axis=1)


def subset(pool: Pool, k: int, order_PN: NDArray[np.int64]) -> Subset:
    """The first K of an order; prompts with fewer samples are not in it."""
    prompts_Q = np.flatnonzero(pool.drawn_PN.sum(axis=1) >= k)
    # ties go to the sample drawn first
    return Subset(prompts_Q, np.sort(order_PN[prompts_Q, :k], axis=1))


def selectable(
    pool: Pool, chosen: Subset, score_QK: NDArray[np.float64], filters: Mapping[str, Any]
) -> NDArray[np.float64]:
    """(Q, K) scores of a subset, NaN for what the filters leave out of it.

    The same as `mask_unselectable` on the subset's texts: filters on a text alone are settled when
    the pool is read, spread and repetition depend on the subset.
    """
    refused_QK = chosen.of(pool.refused_PN)
    # by identity: a lowest score of 0 is a filter, and equal to False
    by_score = {
        key: filters[key]
        for key in BY_SCORE
        if filters.get(key) is not None and filters[key] is not False
    }
    unique = by_score.pop("unique", False)
    if by_score:
        blanks = [[""] * score_QK.shape[1]] * len(score_QK)
        score_QK, _ = mask_unselectable(score_QK, blanks, **by_score)
    score_QK = np.where(refused_QK, np.nan, score_QK)
    if unique:
        first_QK = chosen.of(pool.first_PN)
        # most prompts have no two equal responses
        twice_Q = (np.diff(np.sort(first_QK, axis=1), axis=1) == 0).any(axis=1)
        texts = [list(map(str, row)) for row in first_QK[twice_Q].tolist()]
        score_QK[twice_Q], _ = mask_unselectable(score_QK[twice_Q], texts, unique=True)
    return score_QK
