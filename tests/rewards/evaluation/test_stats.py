"""Statistics against tabulated values, simulation and definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.evaluation.stats import (
    best_of_k_mean,
    clustered_mean_ci95,
    distinct_n,
    mean_ci95,
    pearson,
    spearman,
    wilson95,
    win_rate,
)

NAN, INF = math.nan, math.inf
values = st.lists(st.floats(-100, 100), min_size=2, max_size=20)


@pytest.mark.parametrize(
    "degrees, t", [(1, 12.7062047362), (3, 3.18244630528), (1000, 1.96233908083)]
)
def test_the_half_width_is_students_times_the_standard_error(degrees, t):
    xs = np.arange(degrees + 1.0)
    expected = t * xs.std(ddof=1) / math.sqrt(len(xs))
    assert mean_ci95(xs)[1] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("wins", "trials"), [(0, 10), (4.5, 10), (10, 10), (124, 200)])
def test_wilsons_interval_solves_its_equation(wins, trials):
    z, found = 1.959963984540054, wilson95(wins, trials)
    for edge in (found.low, found.high):
        # the shares p at which the observed one is z standard errors of p away
        off = wins / trials - edge
        assert off**2 == pytest.approx(z * z * edge * (1 - edge) / trials, abs=1e-12)


def test_spearman_by_hand():
    assert spearman([1, 2, 3], [10, 20, 90]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 · 5)
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(math.sqrt(0.9))
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    assert math.isnan(pearson([1, 1, 1], [1, 2, 3]))


def test_mean_ci95_by_hand():
    # n = 4, standard deviation 1.2909944, standard error 0.6454972, t = 3.1824463
    mean, half = mean_ci95([1, 2, 3, 4])
    assert (mean, half) == pytest.approx((2.5, 2.0542603))


@given(values, st.floats(-50, 50), st.floats(0.1, 10))
def test_mean_ci95_moves_and_scales_with_the_values(xs, shift, scale):
    mean, half = mean_ci95(xs)
    moved = mean_ci95([scale * x + shift for x in xs])
    assert moved == pytest.approx((scale * mean + shift, scale * half), abs=1e-6)


def test_mean_ci95_of_little():
    assert mean_ci95([3.0, 3.0, 3.0]) == (3.0, 0.0)
    assert mean_ci95([3.0, NAN, INF])[0] == 3.0
    assert math.isnan(mean_ci95([3.0])[1])
    assert all(map(math.isnan, mean_ci95([])))


def test_intervals_cover_as_often_as_they_say():
    generator = np.random.default_rng(0)
    runs, prompts, samples = 1500, 12, 8
    single = clustered = 0
    for _ in range(runs):
        difficulty = generator.normal(size=(prompts, 1))
        scores_PK = difficulty + 0.5 * generator.normal(size=(prompts, samples))
        mean, half = clustered_mean_ci95(scores_PK)
        clustered += abs(mean) <= half
        mean, half = mean_ci95(scores_PK)
        single += abs(mean) <= half
    # standard error of a coverage of 0.95 over 1500 runs: 0.0056
    assert abs(clustered / runs - 0.95) < 0.02
    assert single / runs < 0.7  # what counting dependent samples singly would do


def test_clustered_mean_leaves_missing_scores_out():
    scores_PK = [[1, 3], [NAN, INF], [5, NAN]]
    assert clustered_mean_ci95(scores_PK) == mean_ci95([2, 5])


def test_best_of_k_mean():
    assert best_of_k_mean([[1, 3], [NAN, -INF], [5, INF]]) == 4
    assert math.isnan(best_of_k_mean([[NAN]]))


def test_distinct_n():
    assert distinct_n(["a b a b"], 1) == 2 / 4
    assert distinct_n(["a b a b"], 2) == 2 / 3
    assert distinct_n(["a b", "a b"], 2) == 1 / 2  # no n-gram reaches over two texts
    assert math.isnan(distinct_n(["a"], 2))
    with pytest.raises(ValueError, match="n must be 1"):
        distinct_n(["a"], 0)


@given(st.lists(st.text("ab ", max_size=12), max_size=5), st.integers(1, 3))
def test_distinct_n_is_a_share_and_repetition_lowers_it(texts, n):
    share = distinct_n(texts, n)
    if not math.isnan(share):
        assert 0 < share <= 1
        assert distinct_n(texts * 2, n) == pytest.approx(share / 2)


def test_win_rate_counts_ties_half_and_leaves_missing_out():
    rate, half = win_rate([2, 1, 0, NAN], [1, 1, 1, 0])
    assert rate == 0.5
    assert 0 < half < 1
    assert all(map(math.isnan, win_rate([NAN], [1])))


def test_win_rate_is_never_certain():
    rate, half = win_rate([1] * 20, [0] * 20)
    assert rate == 1
    assert half == pytest.approx(0.1611, abs=1e-4)  # Wilson 20/20: 0.8389 to 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_win_rates_of_both_sides_sum_to_one(pairs):
    first, second = zip(*pairs, strict=True)
    rate, half = win_rate(first, second)
    other, other_half = win_rate(second, first)
    assert rate + other == pytest.approx(1)
    assert half == pytest.approx(other_half)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="one shape"):
        win_rate([1, 2], [1])
    with pytest.raises(ValueError, match=r"\(P, K\)"):
        clustered_mean_ci95([1, 2])
