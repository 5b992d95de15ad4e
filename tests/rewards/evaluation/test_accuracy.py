"""Accuracy, intervals, calibration, length bias: against closed forms, brute force, scipy."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.evaluation.accuracy import accuracy, accuracy_by, length_bias
from rewards.evaluation.calibration import calibration
from rewards.evaluation.small_benchmarks import best_of_n_hit, kendall_tau
from rewards.evaluation.stats import interval95, paired, resampled_ratios, wilson95

MARGINS = st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.5, 2.0, math.nan]), max_size=30)


def test_accuracy_counts_ties_and_missing_openly() -> None:
    found = accuracy([1.0, 2.0, 0.0, -1.0, math.nan], [0, 1, 2, 3, 4])
    assert (found.wins, found.ties, found.losses, found.missing) == (2, 1, 1, 1)
    assert (found.strict, found.half, found.tie_share, found.of_all) == (0.5, 0.625, 0.25, 0.4)
    assert found.pairs == found.clusters == 4


@given(MARGINS)
def test_swapping_the_two_sides_swaps_wins_and_losses(margins: list[float]) -> None:
    prompts = range(len(margins))
    there = accuracy(margins, prompts, resamples=2)
    back = accuracy([-one for one in margins], prompts, resamples=2)
    assert there.missing == back.missing
    if there.pairs:
        assert back.strict == pytest.approx(1 - there.strict - there.tie_share)
        assert back.half == pytest.approx(1 - there.half)
    else:
        assert math.isnan(there.strict) and math.isnan(there.interval.low)


@given(MARGINS, st.integers(1, 4))
def test_slices_add_up_to_the_whole(margins: list[float], count: int) -> None:
    labels = [number % count for number in range(len(margins))]
    parts = accuracy_by(labels, margins, range(len(margins)), resamples=2)
    whole = accuracy(margins, range(len(margins)), resamples=2)
    for name in ("wins", "ties", "losses", "missing"):
        assert sum(getattr(one, name) for one in parts.values()) == getattr(whole, name)
    assert list(parts) == sorted(set(labels))


def test_resamples_have_the_closed_form_spread_of_independent_pairs() -> None:
    rng = np.random.default_rng(0)
    won_M1 = (rng.random((400, 1)) < 0.7).astype(float)
    draws_B1 = resampled_ratios(won_M1, np.ones((400, 1)), np.arange(400), resamples=20000, seed=1)
    rate = won_M1.mean()
    assert draws_B1.mean() == pytest.approx(rate, abs=1e-3)
    assert draws_B1.std() == pytest.approx(math.sqrt(rate * (1 - rate) / 400), rel=0.02)


def test_resamples_are_those_of_brute_force() -> None:
    # all 3³ resamples of three clusters, the first of two pairs
    tops, cluster_M = np.array([1.0, 0.0, 1.0, 0.0]), [0, 0, 1, 2]
    sums = [(1, 2), (1, 1), (0, 1)]
    exact = sorted(
        sum(sums[i][0] for i in drawn) / sum(sums[i][1] for i in drawn)
        for drawn in itertools.product(range(3), repeat=3)
    )
    draws_B1 = resampled_ratios(tops[:, None], np.ones((4, 1)), cluster_M, resamples=40000)
    assert set(np.round(draws_B1.ravel(), 12)) == set(np.round(exact, 12))
    for value in set(exact):
        share = float(np.isclose(draws_B1, value).mean())
        assert share == pytest.approx(np.isclose(exact, value).mean(), abs=0.01)


def test_the_same_seed_draws_the_same_and_chunks_do_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rewards.evaluation import stats as bootstrap

    tops_MS = np.random.default_rng(0).random((50, 2))
    arguments = (tops_MS, np.ones((50, 2)), np.arange(50) // 2)
    whole_BS = resampled_ratios(*arguments, resamples=100, seed=3)
    assert whole_BS.shape == (100, 2)
    np.testing.assert_array_equal(whole_BS, resampled_ratios(*arguments, resamples=100, seed=3))
    monkeypatch.setattr(bootstrap, "_AT_A_TIME", 25 * 7)
    np.testing.assert_allclose(whole_BS, resampled_ratios(*arguments, resamples=100, seed=3))


def coverage(prompts: int, pairs_each: int, trials: int = 300) -> float:
    """How often the interval holds the true accuracy, of prompts that differ in difficulty."""
    rng = np.random.default_rng(prompts)
    cluster_M, hits = np.repeat(np.arange(prompts), pairs_each), 0
    for trial in range(trials):
        rate_M = np.repeat(rng.beta(1.4, 0.6, prompts), pairs_each)  # mean 0.7
        margins_M = np.where(rng.random(len(rate_M)) < rate_M, 1.0, -1.0)
        found = accuracy(margins_M, cluster_M, resamples=500, seed=trial).interval
        hits += found.low <= 0.7 <= found.high
    return hits / trials


@pytest.mark.slow
@pytest.mark.parametrize(("prompts", "pairs_each"), [(200, 1), (100, 5), (20, 4)])
def test_intervals_cover_at_their_rate(prompts: int, pairs_each: int) -> None:
    # 300 trials: ± 2.5 points of simulation noise, and a binomial's steps
    assert 0.92 <= coverage(prompts, pairs_each) <= 0.985


def test_resampling_pairs_as_if_independent_would_be_too_narrow() -> None:
    margins_M = np.repeat(np.where(np.arange(40) % 4 > 0, 1.0, -1.0), 10)
    by_prompt = accuracy(margins_M, np.repeat(np.arange(40), 10)).interval
    by_pair = accuracy(margins_M, np.arange(400)).interval
    assert by_prompt.half_width == pytest.approx(math.sqrt(10) * by_pair.half_width, rel=0.15)


def test_where_all_pairs_agree_the_interval_is_wilsons_of_the_prompts() -> None:
    found = accuracy(np.ones(60), np.arange(60) // 3).interval
    assert found == wilson95(20, 20)
    assert accuracy(-np.ones(60), np.arange(60)).interval == wilson95(0, 60)


def test_few_prompts_take_the_tails_further_out() -> None:
    from scipy import stats

    draws_B = np.random.default_rng(0).normal(size=400_000)
    for clusters in (6, 12, 50, 1000):
        found = interval95(draws_B, clusters)
        t = stats.t.ppf(0.975, clusters - 1) * math.sqrt(clusters / (clusters - 1))
        assert found.half_width == pytest.approx(t, rel=0.02)
    assert math.isnan(interval95(draws_B, 1).low)


def test_paired_differences() -> None:
    rng = np.random.default_rng(0)
    a_M, b_M = rng.normal(0.8, 1, 500), rng.normal(0.3, 1, 500)
    b_M[:10] = math.nan
    found = paired(a_M, b_M, np.arange(500))
    both = slice(10, None)
    assert found.difference == pytest.approx((a_M[both] > 0).mean() - (b_M[both] > 0).mean())
    assert found.pairs == 490 and found.a_better > 0.99 and found.interval.low > 0
    back = paired(b_M, a_M, np.arange(500))
    assert back.difference == -found.difference and back.a_better == 1 - found.a_better
    # one that is always right together with the other is told apart better than by its own width
    same = paired(a_M, np.where(np.arange(500) < 5, -1.0, a_M), np.arange(500))
    assert same.interval.half_width < 0.02
    assert paired(a_M, a_M, np.arange(500)).a_better == 0.5
    assert math.isnan(paired([math.nan], [1.0], [0]).difference)


def test_a_calibrated_reward_has_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    strength_M = rng.normal(0, 2, 200_000)
    right_M = rng.random(len(strength_M)) < 1 / (1 + np.exp(-np.abs(strength_M)))
    margins_M = np.where(right_M, 1, -1) * np.abs(strength_M)
    found = calibration(margins_M)
    assert found.ece < 0.005 and found.temperature == pytest.approx(1, abs=0.02)
    assert [one.pairs for one in found.bins] == [20_000] * 10
    too_sure = calibration(3 * margins_M)
    assert too_sure.ece > 0.05 and too_sure.temperature == pytest.approx(3, abs=0.06)
    assert too_sure.log_loss > found.log_loss


def test_log_loss_and_brier_are_their_definitions() -> None:
    margins_M = np.random.default_rng(1).normal(0.4, 2, 500)
    found = calibration([*margins_M, math.nan])
    chances = [1 / (1 + math.exp(-margin)) for margin in margins_M]
    assert found.pairs == 500
    assert found.log_loss == pytest.approx(-sum(map(math.log, chances)) / 500)
    assert found.brier == pytest.approx(sum((1 - p) ** 2 for p in chances) / 500)


def test_the_temperature_makes_the_log_loss_least() -> None:
    from scipy.optimize import minimize_scalar

    margins_M = np.random.default_rng(2).normal(8, 20, 300)
    found = calibration(margins_M)
    best: Any = minimize_scalar(
        lambda t: calibration(margins_M / t).log_loss, bounds=(1, 1000), method="bounded"
    )
    assert found.temperature == pytest.approx(best.x, rel=1e-3)
    assert calibration([1.0, 2.0]).temperature is None
    assert calibration([-1.0, 0.5]).temperature is None


def test_calibration_of_ties_and_of_huge_margins() -> None:
    ties = calibration([0.0] * 20)
    assert ties.log_loss == pytest.approx(math.log(2)) and ties.brier == 0.25 and ties.ece == 0
    huge = calibration([1e5, -1e5])
    assert huge.log_loss == pytest.approx(5e4) and huge.ece == pytest.approx(0.5)
    assert math.isnan(calibration([math.nan]).ece)


@given(st.lists(st.sampled_from([-3.0, -1.0, 0.0, 1.0, 3.0]), min_size=1, max_size=40))
def test_the_order_of_rows_does_not_change_calibration(margins: list[float]) -> None:
    one, other = calibration(margins), calibration(margins[::-1])
    assert one.ece == pytest.approx(other.ece) and one.bins == other.bins
    assert sum(bin.pairs for bin in one.bins) == len(margins)


def test_length_bias_by_hand() -> None:
    margins = [1.0, -1.0, 1.0, 1.0, 0.0, math.nan, 1.0]
    extra = [5.0, -2.0, -3.0, 0.0, 4.0, 9.0, math.nan]
    found = length_bias(margins, extra, range(7))
    assert (found.better_longer.wins, found.better_longer.ties, found.better_longer.missing) == (
        1,
        1,
        1,
    )
    assert (found.better_shorter.wins, found.better_shorter.losses, found.better_equal.wins) == (
        1,
        1,
        1,
    )
    # of the first three, the longer one won in the first two
    assert found.prefers_longer == pytest.approx(2 / 3)
    assert found.longer_is_better == pytest.approx(1 / 3)


def test_length_correlations_are_scipys() -> None:
    from scipy import stats

    rng = np.random.default_rng(0)
    extra_M = rng.integers(-5, 6, 200).astype(float)
    margins_M = np.round(0.3 * extra_M + rng.normal(0, 1, 200), 1)
    found = length_bias(margins_M, extra_M, np.arange(200))
    assert found.spearman == pytest.approx(stats.spearmanr(margins_M, extra_M)[0])
    assert found.pearson == pytest.approx(stats.pearsonr(margins_M, extra_M)[0])
    assert math.isnan(length_bias([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], [0, 1, 2]).pearson)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12))
def test_kendalls_tau_is_scipys(points: list[tuple[int, int]]) -> None:
    from scipy import stats

    scores, gold = zip(*points, strict=True)
    expected = stats.kendalltau(scores, gold)[0]
    assert kendall_tau(scores, gold) == pytest.approx(expected, nan_ok=True)


def test_best_of_n() -> None:
    assert best_of_n_hit([1, 3, 2], [0, 2, 1]) == 1
    assert best_of_n_hit([1, 3, 2], [5, 2, 1]) == 0
    assert best_of_n_hit([3, 3, 2], [5, 2, 1]) == 0.5
    assert best_of_n_hit([3, 1, 2], [5, 5, 1]) == 1
    assert math.isnan(best_of_n_hit([3, math.nan], [1, 2]))
