"""Length-sorted batches under a token budget. Knows nothing of models: lengths in, scores out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from rollout.types import InputError

__all__ = ["next_batch", "score_in_batches"]

log = logging.getLogger("rewards")


def next_batch(order: Sequence[int], start: int, lengths: Sequence[int], budget: int) -> list[int]:
    """The indices to score together from `start` on; `order` is sorted by falling length.

    The padded size, (longest length) × (number of rows), stays within `budget` tokens; a row that
    is longer than the budget travels alone.
    """
    width = max(1, lengths[order[start]])
    return list(order[start : start + max(1, budget // width)])


def score_in_batches(
    lengths: Sequence[int],
    budget: int,
    score_batch: Callable[[list[int]], np.ndarray],
    out_of_memory: Callable[[BaseException], bool],
) -> np.ndarray:
    """Scores (N,) float32 in the caller's order; `score_batch` maps B indices to B scores.

    The longest go first, so that memory runs out in the first batch or never. When it does run
    out, the budget is halved and stays so; a single row that does not fit raises its error.
    """
    if budget < 1:
        raise InputError(f"batch_tokens={budget} must be 1 or more")
    scores_N = np.full(len(lengths), np.nan, dtype=np.float32)
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    done = 0
    while done < len(order):
        batch = next_batch(order, done, lengths, budget)
        try:
            scores_N[batch] = score_batch(batch)
        except Exception as error:
            if not out_of_memory(error) or len(batch) == 1:
                raise
            budget = lengths[batch[0]] * len(batch) // 2
            log.warning("out of memory: going on with batches of %d tokens", budget)
            continue
        done += len(batch)
    return scores_N
