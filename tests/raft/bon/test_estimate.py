"""The best-of-n estimator against enumeration, simulation and closed forms."""

from __future__ import annotations

from itertools import combinations, permutations
from math import comb, nan

import numpy as np
import pytest

from raft.bon.estimate import (
    best_of_n_curve,
    best_of_n_weights,
    expected_best_of_n,
    expected_best_of_ns,
    kl_best_of_n,
)

_INF = float("inf")


def by_enumeration(scores: list[float], values: list[float], n: int) -> float:
    """Mean, over all subsets and all orders of equal scores, of the value of the best."""
    inside = [i for i, s in enumerate(scores) if np.isfinite(s) and np.isfinite(values[i])]
    found = []
    for order in permutations(inside):
        for subset in combinations(order, n):
            found.append(values[max(subset, key=lambda i: scores[i])])  # the first of equals
    return float(np.mean(found)) if found else nan


@pytest.mark.parametrize(
    ("scores", "values"),
    [
        ([0.3, -1.0, 2.0, 0.5, 7.0], [1.0, 2.0, 3.0, 4.0, 5.0]),
        ([1.0, 1.0, 0.0, 0.0, 1.0], [9.0, 2.0, 5.0, -4.0, 0.5]),
        ([2.0, 2.0, 2.0, 2.0], [0.0, 1.0, 2.0, 3.0]),
        ([nan, 1.0, _INF, 0.0, -_INF, 1.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        ([0.0, 1.0, 2.0, 3.0], [1.0, nan, 2.0, nan]),
        ([nan, nan], [0.0, 1.0]),
    ],
)
def test_equals_brute_force_over_all_subsets(scores: list[float], values: list[float]) -> None:
    for n in range(1, len(scores) + 1):
        found = expected_best_of_n([scores], n, [values])[0]
        assert found == pytest.approx(by_enumeration(scores, values, n), nan_ok=True)
        itself = expected_best_of_n([scores], n)[0]
        assert itself == pytest.approx(by_enumeration(scores, scores, n), nan_ok=True)


def test_prompts_with_pools_of_all_sizes_do_not_touch_each_other() -> None:
    rng = np.random.default_rng(1)
    scores_PN = rng.integers(0, 4, size=(30, 6)).astype(float)
    values_PN = rng.normal(size=(30, 6))
    scores_PN[rng.random((30, 6)) < 0.3] = nan
    together_PS = expected_best_of_ns(scores_PN, range(1, 7), values_PN)
    for p in range(30):
        for n in range(1, 7):
            alone = by_enumeration(scores_PN[p].tolist(), values_PN[p].tolist(), n)
            assert together_PS[p, n - 1] == pytest.approx(alone, nan_ok=True)


@pytest.mark.parametrize(("count", "n"), [(1, 1), (7, 3), (256, 64), (1024, 1), (1024, 512)])
def test_weights_are_the_binomials(count: int, n: int) -> None:
    exact = [comb(i - 1, n - 1) / comb(count, n) for i in range(1, count + 1)]
    weights_N = best_of_n_weights(count, n)
    np.testing.assert_allclose(weights_N, exact, rtol=1e-11)
    assert weights_N.sum() == pytest.approx(1, abs=1e-12)


def test_ends_of_the_range_are_the_mean_and_the_maximum() -> None:
    scores_PN = np.random.default_rng(2).normal(size=(5, 256))
    np.testing.assert_allclose(expected_best_of_n(scores_PN, 1), scores_PN.mean(axis=1))
    np.testing.assert_allclose(expected_best_of_n(scores_PN, 256), scores_PN.max(axis=1))


def test_kl_table_of_gao_and_of_grm() -> None:
    table = {1: 0.0, 402: 4.9989, 403: 5.0014, 405: 5.0064}
    assert {n: round(kl_best_of_n(n), 4) for n in table} == table


def test_unbiased_where_the_first_n_of_the_pool_are_too() -> None:
    """The mean over many pools is the known expectation of the best of n uniform scores."""
    scores_PN = np.random.default_rng(3).random((20_000, 12))
    for n in (1, 2, 5, 12):
        found_P = expected_best_of_n(scores_PN, n)
        error = found_P.std() / np.sqrt(len(found_P))
        assert abs(found_P.mean() - n / (n + 1)) < 4 * error
        # and it is of less variance than the first n of the same pools, unless n is all of them
        if n < 12:
            assert found_P.std() < 0.95 * scores_PN[:, :n].max(axis=1).std()


def test_gold_of_the_selected_is_unbiased_too() -> None:
    """gold = proxy / 2 + noise: the best of n by proxy has half its expected score as gold."""
    rng = np.random.default_rng(4)
    scores_PN = rng.random((20_000, 8))
    gold_PN = scores_PN / 2 + rng.normal(size=scores_PN.shape)
    found_P = expected_best_of_n(scores_PN, 4, gold_PN)
    assert abs(found_P.mean() - 0.5 * 4 / 5) < 4 * found_P.std() / np.sqrt(len(found_P))


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [8, 40])
def test_intervals_cover_at_their_stated_rate(prompts: int) -> None:
    """95 % of the intervals hold the truth: scores of a prompt share its own difficulty."""
    rng = np.random.default_rng(5)
    trials, hits_S, gold_hits_S = 500, np.zeros(3), np.zeros(3)
    ns = [1, 3, 6]
    for trial in range(trials):
        scores_PN = rng.random((prompts, 6)) + rng.normal(size=(prompts, 1))
        gold_PN = scores_PN + rng.normal(size=(prompts, 6))
        curve = best_of_n_curve(scores_PN, ns, gold_PN, resamples=600, seed=trial)
        truth_S = np.array([n / (n + 1) for n in ns])
        for hits, series in ((hits_S, curve.proxy), (gold_hits_S, curve.gold)):
            assert series is not None
            hits += (series.low_S <= truth_S) & (truth_S <= series.high_S)
    # three standard errors of a share of 0.95 in 500 trials are 0.03
    assert ((hits_S / trials > 0.92) & (hits_S / trials < 0.98)).all()
    assert ((gold_hits_S / trials > 0.92) & (gold_hits_S / trials < 0.98)).all()


def test_one_curve_and_its_gold_see_the_same_resamples() -> None:
    scores_PN = np.random.default_rng(6).normal(size=(20, 4))
    curve = best_of_n_curve(scores_PN, gold_PN=scores_PN + 1)
    assert curve.gold is not None
    np.testing.assert_allclose(curve.gold.low_S, curve.proxy.low_S + 1)
    np.testing.assert_allclose(curve.gold.high_S, curve.proxy.high_S + 1)


def test_a_prompt_with_too_few_scores_is_left_out_and_counted() -> None:
    curve = best_of_n_curve([[1.0, 2.0], [5.0, nan], [nan, nan]], [1, 2])
    assert curve.proxy.prompts_S.tolist() == [2, 1]
    assert curve.proxy.mean_S.tolist() == [3.25, 2.0]
    # one prompt has no interval, and JSON has no NaN
    assert curve.rows()[1].get("proxy") == {"mean": 2.0, "low": None, "high": None, "prompts": 1}


def test_an_n_beyond_every_pool_is_unknown_and_not_a_number() -> None:
    curve = best_of_n_curve([[1.0, 2.0]], [2, 3])
    assert curve.rows()[1].get("proxy") == {"mean": None, "low": None, "high": None, "prompts": 0}


def test_misuse_is_refused() -> None:
    for misuse in (
        lambda: kl_best_of_n(0),
        lambda: best_of_n_weights(3, 4),
        lambda: expected_best_of_n([[1.0]], 0),
        lambda: expected_best_of_n([1.0], 1),
        lambda: expected_best_of_n([[1.0]], 1, [[1.0, 2.0]]),
    ):
        with pytest.raises(ValueError, match=r"must be|values are"):
            misuse()
