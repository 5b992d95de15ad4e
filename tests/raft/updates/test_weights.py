"""What a response counts by its score: closed forms, sums, and what no score may do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raft.config.updates import ReinforceUpdate, WeightedUpdate
from raft.selection.rules import best_of_k
from raft.updates.reinforce import leave_one_out
from raft.updates.weighted import exponential, standardized

score = st.sampled_from([-3.0, 0.0, 0.1, 2.0, 1e6, math.nan, math.inf, -math.inf])
scores = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=score
)


def finite_rows(scores_PK: Any) -> list[list[float]]:
    return [[s for s in row if math.isfinite(s)] for row in scores_PK]


def kept(values_PK: Any, scores_PK: Any) -> list[list[float]]:
    """The values of the finite scores; all others must be NaN, which no trainer sees."""
    assert np.isnan(values_PK[~np.isfinite(scores_PK)]).all()
    return [
        [v for v, s in zip(values, row, strict=True) if math.isfinite(s)]
        for values, row in zip(values_PK.tolist(), scores_PK, strict=True)
    ]


@given(scores, st.sampled_from([0.5, 1.0, 3.0]))
def test_exponential_weights_are_a_softmax(scores_PK, temperature):
    found = kept(exponential(scores_PK, temperature), scores_PK)
    for weights, row in zip(found, finite_rows(scores_PK), strict=True):
        if row:
            assert sum(weights) == pytest.approx(1)
            mass = [math.exp((s - max(row)) / temperature) for s in row]
            assert weights == pytest.approx([m / sum(mass) for m in mass])


@given(scores)
def test_towards_temperature_zero_only_the_best_counts(scores_PK):
    weights_PK, best_P = exponential(scores_PK, 1e-5), best_of_k(scores_PK)
    for p, row in enumerate(scores_PK):
        counted = [k for k, weight in enumerate(weights_PK[p]) if weight > 0]
        assert counted == [k for k, s in enumerate(row) if best_P[p] >= 0 and s == row[best_P[p]]]


@given(scores)
def test_standardized_scores_have_mean_zero_and_variance_one(scores_PK):
    found = kept(standardized(scores_PK), scores_PK)
    for values, row in zip(found, finite_rows(scores_PK), strict=True):
        if len(set(row)) > 1:
            assert np.mean(values) == pytest.approx(0, abs=1e-9)
            assert np.var(values) == pytest.approx(1)
            assert (
                np.argsort(values, kind="stable").tolist()
                == np.argsort(row, kind="stable").tolist()
            )
        else:
            assert values == [0.0] * len(row)


@given(scores)
def test_leave_one_out_is_the_score_less_the_mean_of_the_others(scores_PK):
    found = kept(leave_one_out(scores_PK), scores_PK)
    for values, row in zip(found, finite_rows(scores_PK), strict=True):
        others = [[s for j, s in enumerate(row) if j != k] for k in range(len(row))]
        expected = [s - np.mean(rest) if rest else 0.0 for s, rest in zip(row, others, strict=True)]
        assert values == pytest.approx(expected, abs=1e-6)
        assert sum(values) == pytest.approx(0, abs=1e-6)


def test_equal_scores_that_rounding_parts_are_equal():
    assert standardized([[0.1 + 0.2, 0.3, 0.3]]).tolist() == [[0.0, 0.0, 0.0]]


def test_updates_take_the_weights_that_they_say():
    row = np.array([[1.0, 3.0, math.nan, 2.0]])
    taken = WeightedUpdate(weight="standardized").weights(row)
    assert taken is not None and taken[0, 1] == pytest.approx(1.5**0.5)
    assert taken[0, [0, 3]].tolist() == [0.0, 0.0] and math.isnan(taken[0, 2])
    cold = WeightedUpdate(temperature=0.01).weights(row)
    assert cold is not None and cold[0, [0, 1, 3]].tolist() == pytest.approx([0, 1, 0])
    for update, expected in (
        (ReinforceUpdate(), 1.5),
        (ReinforceUpdate(advantage="standardized"), 1.5**0.5),
    ):
        taken = update.weights(row)
        assert taken is not None and taken[0, 1] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "bounds"),
    [
        ({}, (0.8, 1.2)),
        ({"clip": 0.1, "clip_high": 0.3}, (0.9, 1.3)),
        ({"clip": None}, (0.0, math.inf)),
        ({"clip": None, "clip_high": 0.3}, (0.0, 1.3)),
    ],
)
def test_clip_is_below_and_above_one(settings, bounds):
    assert ReinforceUpdate(**settings).bounds == pytest.approx(bounds)
