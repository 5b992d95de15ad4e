"""Batches stay within the budget, cover every row once, and survive a lack of memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.inference.batching import packed_fitting, padded_fitting, run_in_batches
from rollout.types import InputError

lengths_strategy = st.lists(st.integers(1, 60), max_size=40).map(lambda x: sorted(x, reverse=True))


class Memory(Exception):
    pass


def out_of_memory(error):
    return isinstance(error, Memory)


@given(lengths_strategy, st.integers(1, 200), st.data())
def test_budget_and_coverage(lengths, budget, data):
    added = [data.draw(st.integers(0, length)) for length in lengths]
    for fitting, size in (
        (padded_fitting(lengths), lambda b: lengths[b[0]] * len(b)),
        (packed_fitting(lengths, added), lambda b: lengths[b[0]] + sum(added[i] for i in b[1:])),
    ):
        batches = []
        run_in_batches(range(len(lengths)), fitting, budget, batches.append, out_of_memory)
        assert [i for batch in batches for i in batch] == list(range(len(lengths)))
        for batch, following in zip(batches, [*batches[1:], None], strict=False):
            assert len(batch) == 1 or size(batch) <= budget
            # full: the next row would not have fitted
            assert following is None or size([*batch, following[0]]) > budget


@given(lengths_strategy, st.integers(60, 5000))
def test_memory_running_out_changes_nothing_but_the_batches(lengths, budget):
    failures, seen = [], []

    def run(batch):
        if lengths[batch[0]] * len(batch) > 60:
            failures.append(len(batch))
            raise Memory
        seen.extend(batch)

    run_in_batches(range(len(lengths)), padded_fitting(lengths), budget, run, out_of_memory)
    assert seen == list(range(len(lengths)))
    # the smaller budget is remembered: failures do not repeat for every batch
    assert len(failures) <= 7


def test_a_row_that_never_fits_raises_and_other_errors_pass():
    def never(batch):
        raise Memory

    def broken(batch):
        raise KeyError("x")

    for fitting in (padded_fitting([4, 3]), packed_fitting([4, 3], [4, 3])):
        with pytest.raises(Memory):
            run_in_batches([0, 1], fitting, 100, never, out_of_memory)
        with pytest.raises(KeyError):
            run_in_batches([0, 1], fitting, 100, broken, out_of_memory)
        with pytest.raises(InputError):
            run_in_batches([0, 1], fitting, 0, never, out_of_memory)
