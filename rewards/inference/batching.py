"""Batches under a token budget, halved when memory runs out. Knows nothing of models."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from rollout.types import InputError

__all__ = ["Fitting", "packed_fitting", "padded_fitting", "run_in_batches"]

log = logging.getLogger("rewards")

# (first row, budget) -> how many rows from it on go into one batch; at least one
Fitting = Callable[[int, int], int]


def padded_fitting(lengths: Sequence[int]) -> Fitting:
    """Return the fitting of rows of falling `lengths`, padded to the first of a batch."""
    return lambda start, budget: max(1, min(len(lengths) - start, budget // max(1, lengths[start])))


def packed_fitting(lengths: Sequence[int], added: Sequence[int]) -> Fitting:
    """Return the fitting of rows laid end to end.

    The first of a batch counts at its full length, each other with the tokens that it has `added`.
    """

    def count(start: int, budget: int) -> int:
        total, stop = lengths[start], start + 1
        while stop < len(lengths) and total + added[stop] <= budget:
            total += added[stop]
            stop += 1
        return stop - start

    return count


def run_in_batches(
    order: Sequence[int],
    fitting: Fitting,
    budget: int,
    run: Callable[[list[int]], None],
    out_of_memory: Callable[[BaseException], bool],
) -> None:
    """Call `run` with the members of `order`, a batch at a time.

    When memory runs out the `budget` in tokens is halved until the batch is smaller, and stays so;
    a single row that does not fit raises its error. Raises `InputError` for a budget below 1.
    """
    if budget < 1:
        raise InputError(f"batch_tokens={budget}", "must be 1 or more")
    done = 0
    while done < len(order):
        count = fitting(done, budget)
        try:
            run(list(order[done : done + count]))
        except Exception as error:
            if not out_of_memory(error) or count == 1:
                raise
            while fitting(done, budget) >= count:
                budget //= 2
            log.warning("out of memory: going on with batches of %d tokens", budget)
            continue
        done += count
