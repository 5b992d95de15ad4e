"""Batches stay within the budget, cover every row once, and never change a score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.batching import score_in_batches
from rollout.types import InputError

lengths_strategy = st.lists(st.integers(1, 60), max_size=40)


class Memory(Exception):
    pass


def out_of_memory(error):
    return isinstance(error, Memory)


@given(lengths_strategy, st.integers(1, 200))
def test_budget_coverage_and_order(lengths, budget):
    seen = []

    def score(batch):
        widest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or widest * len(batch) <= budget
        seen.extend(batch)
        return np.array([100 * i + lengths[i] for i in batch])

    scores = score_in_batches(lengths, budget, score, out_of_memory)
    assert sorted(seen) == list(range(len(lengths)))
    assert scores.tolist() == [100 * i + length for i, length in enumerate(lengths)]
    assert scores.dtype == np.float32


@given(lengths_strategy, st.integers(60, 5000))
def test_memory_running_out_changes_nothing_but_the_batches(lengths, budget):
    failures = []

    def score(batch):
        if max(lengths[i] for i in batch) * len(batch) > 60:
            failures.append(len(batch))
            raise Memory
        return np.array(batch)

    scores = score_in_batches(lengths, budget, score, out_of_memory)
    assert scores.tolist() == list(range(len(lengths)))
    # the smaller budget is remembered: failures do not repeat for every batch
    assert len(failures) <= 7


def test_batches_are_full():
    sizes = []

    def score(batch):
        sizes.append(len(batch))
        return np.zeros(len(batch))

    score_in_batches([10] * 100, 250, score, out_of_memory)
    assert sizes == [25] * 4


def test_a_row_that_never_fits_raises_and_other_errors_pass():
    def never(batch):
        raise Memory

    def broken(batch):
        raise KeyError("x")

    with pytest.raises(Memory):
        score_in_batches([3, 4], 100, never, out_of_memory)
    with pytest.raises(KeyError):
        score_in_batches([3, 4], 100, broken, out_of_memory)
    with pytest.raises(InputError):
        score_in_batches([3], 0, never, out_of_memory)
