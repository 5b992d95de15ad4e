"""Selection against brute-force references, and every selection that cannot work."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from score_arrays import NAN, finite_samples, score, scores
from wording import words

from raft.selection.filters import mask_unselectable
from raft.selection.rules import (
    DRAWING,
    all_pairs,
    best_and_worst,
    best_of_k,
    check_strategy,
    global_top_fraction,
    select,
    shuffled,
    soft_best,
    threshold,
    top_m,
)
from rollout.errors import InputError


def by_score(row, samples) -> list[int]:
    """Best first, the sample drawn first on ties."""
    return sorted(samples, key=lambda k: (-row[k], k))


@pytest.mark.slow
@given(scores)
def test_best_of_k_is_the_first_best_finite_score(scores_PK):
    expected = [(by_score(row, finite_samples(row)) or [-1])[0] for row in scores_PK]
    assert best_of_k(scores_PK).tolist() == expected


@given(scores, st.integers(1, 6))
def test_top_m_is_the_first_m_of_a_sort(scores_PK, m):
    expected = [
        [p, k]
        for p, row in enumerate(scores_PK)
        for k in sorted(by_score(row, finite_samples(row))[:m])
    ]
    assert top_m(scores_PK, m).tolist() == expected


@pytest.mark.slow
@given(scores, st.fractions("1/50", 1, max_denominator=50))
def test_global_top_fraction_keeps_the_best_of_all(scores_PK, fraction):
    samples = [(p, k) for p, row in enumerate(scores_PK) for k in finite_samples(row)]
    keep = max(math.floor(fraction * len(samples)), min(len(samples), 1))
    ranked = sorted(samples, key=lambda at: (-scores_PK[at], at))
    expected = [list(at) for at in sorted(ranked[:keep])]
    assert global_top_fraction(scores_PK, float(fraction)).tolist() == expected


@given(scores, score.filter(math.isfinite), st.none() | st.integers(1, 6))
def test_threshold_keeps_what_reaches_the_minimum(scores_PK, min_score, per_prompt):
    expected = [
        [p, k]
        for p, row in enumerate(scores_PK)
        for k in sorted(by_score(row, finite_samples(row))[:per_prompt])
        if row[k] >= min_score
    ]
    assert threshold(scores_PK, min_score, per_prompt).tolist() == expected


@pytest.mark.slow
@given(scores)
def test_best_and_worst_are_the_ends_where_they_differ(scores_PK):
    expected = []
    for p, row in enumerate(scores_PK):
        samples = finite_samples(row)
        if samples and max(row[samples]) > min(row[samples]):
            worst = min(samples, key=lambda k: (row[k], k))
            expected.append([p, by_score(row, samples)[0], worst])
    pairs = best_and_worst(scores_PK)
    assert pairs.tolist() == expected
    assert pairs.shape[1] == 3


@pytest.mark.slow
@given(scores, st.sampled_from([0.0, 0.5, 1.0, 2.5]), st.none() | st.integers(1, 4))
def test_all_pairs_are_those_whose_scores_lie_apart(scores_PK, min_gap, max_pairs):
    pairs = all_pairs(scores_PK, min_gap, max_pairs).tolist()
    for p, row in enumerate(scores_PK):
        samples = finite_samples(row)
        every = [
            (row[i] - row[j], [p, i, j])
            for i in samples
            for j in samples
            if row[i] > row[j] and row[i] - row[j] >= min_gap
        ]
        mine = [pair for pair in pairs if pair[0] == p]
        widest = sorted((-gap for gap, _ in every))[:max_pairs]
        assert [row[j] - row[i] for _, i, j in mine] == widest
        assert all(pair in [other for _, other in every] for pair in mine)
        assert len({tuple(pair) for pair in mine}) == len(mine)
    assert select("all_pairs", [[1.0, 3.0, 2.0]], min_gap=2).tolist() == [[0, 1], [0, 0]]


STRATEGIES = {
    "best_of_k": {},
    "all": {},
    "top_m": {"m": 1},
    "global_top_fraction": {"fraction": 0.5},
    "threshold": {"min_score": 0.0, "per_prompt": 1},
    "best_and_worst": {},
    "random": {},
    "soft": {"temperature": 0.7},
    "poisson": {"mean": 1.5},
}


@pytest.mark.slow
@given(scores, st.sampled_from(sorted(STRATEGIES)), st.randoms())
def test_select_gives_finite_rows_once_in_prompt_order(scores_PK, strategy, random):
    if strategy == "best_and_worst" and scores_PK.shape[1] < 2:
        return
    before = scores_PK.copy()
    rows = select(strategy, scores_PK, **STRATEGIES[strategy])
    assert rows.shape[1:] == (2,)
    assert np.issubdtype(rows.dtype, np.integer)
    assert np.isfinite(scores_PK[rows[:, 0], rows[:, 1]]).all()
    assert len({tuple(row) for row in rows.tolist()}) == len(rows)
    assert rows[:, 0].tolist() == sorted(rows[:, 0])
    np.testing.assert_array_equal(scores_PK, before)
    # the rows of a prompt do not depend on its place among the others
    if strategy not in ("global_top_fraction", *DRAWING):
        order = list(range(len(scores_PK)))
        random.shuffle(order)
        moved = select(strategy, scores_PK[order], **STRATEGIES[strategy])
        assert sorted([order[p], k] for p, k in moved.tolist()) == sorted(rows.tolist())


def test_shuffled_scores_say_nothing_and_are_all_there() -> None:
    scores_PK = np.array([[1.0, 2.0, np.nan, 4.0], [np.nan, 3.0, 3.0, np.inf]])
    dealt = np.array([shuffled(scores_PK, seed) for seed in range(4000)])
    for p, k in ((0, 2), (1, 0)):
        assert np.isnan(dealt[:, p, k]).all()
    assert (dealt[:, 1, 3] == np.inf).all()
    assert (np.sort(dealt[:, 0, [0, 1, 3]]) == [1.0, 2.0, 4.0]).all()
    # every response is the best as often: its true score is unbiased, at 4 standard deviations
    picked = best_of_k(dealt[:, 0])
    assert abs(scores_PK[0, picked].mean() - 7 / 3) < 4 * np.std([1, 2, 4]) / np.sqrt(4000)
    assert (shuffled(scores_PK, 7)[0, :2] == shuffled(scores_PK, 7)[0, :2]).all()


def test_select_pairs_are_best_then_worst():
    assert select("best_and_worst", [[0.0, 2.0, -1.0]]).tolist() == [[0, 1], [0, 2]]


def test_best_of_one_and_top_one_agree():
    scores_PK = [[1.0], [NAN], [None]]
    assert select("best_of_k", scores_PK).tolist() == [[0, 0]]
    assert select("top_m", scores_PK, m=1).tolist() == [[0, 0]]


def test_fraction_is_not_lost_to_rounding():
    assert len(global_top_fraction(np.arange(100.0).reshape(10, 10), 0.29)) == 29


@pytest.mark.parametrize("bad", [[1.0, 2.0], [], [[]], np.zeros((2, 2, 2))])
def test_scores_of_another_shape_are_refused(bad):
    with pytest.raises(ValueError, match=r"\(P, K\)"):
        best_of_k(bad)


def test_no_prompts_select_nothing():
    empty = np.zeros((0, 4))
    for strategy, arguments in STRATEGIES.items():
        assert select(strategy, empty, **arguments).shape == (0, 2)
    assert mask_unselectable(empty, [], reject_pattern="#", unique=True)[0].shape == (0, 4)


@pytest.mark.parametrize("strategy, k, arguments, expected", [
    ("best", 8, {}, "select.strategy: 'best' best_of_k, top_m"),
    ("best_of_k", 8, {"m": 2}, "select.m: best_of_k takes no arguments"),
    ("top_m", 8, {}, "select.m: top_m needs it"),
    ("top_m", 4, {"m": 5}, "select.m: 5 4 samples sampling.k 5"),
    ("top_m", 4, {"m": 0}, "select.m: 0 is not a count"),
    ("top_m", 4, {"m": 1.5}, "select.m: 1.5 is not a count"),
    ("top_m", 4, {"m": True}, "select.m: True is not a finite number"),
    ("global_top_fraction", 8, {"fraction": 0}, "select.fraction: 0"),
    ("global_top_fraction", 8, {"fraction": 1.1}, "select.fraction: 1.1"),
    ("global_top_fraction", 8, {"fraction": "a"}, "select.fraction: 'a' is not a finite number"),
    ("threshold", 8, {"min_score": NAN}, "select.min_score: nan is not a finite number"),
    ("threshold", 8, {"min_score": 0, "per_prompt": 9}, "select.per_prompt: 9 is more than the 8"),
    ("threshold", 8, {"m": 1, "min_score": 0}, "select.m threshold min_score per_prompt"),
    ("soft", 8, {}, "select.temperature: soft needs it"),
    ("soft", 8, {"temperature": 0}, "select.temperature: 0 is not above 0"),
    ("poisson", 8, {"mean": -1.0}, "select.mean: -1.0 is not above 0"),
    ("random", 8, {"temperature": 1.0}, "select.temperature: random takes no arguments"),
    ("pessimistic", 8, {}, "select.strategy: pessimistic reward mean_minus_std members"),
    ("best_and_worst", 1, {}, "sampling.k: 1 is too small for best_and_worst"),
])  # fmt: skip
def test_a_selection_that_cannot_work_is_refused(strategy, k, arguments, expected):
    with pytest.raises(InputError, match=words(expected)) as caught:
        check_strategy(strategy, k, **arguments)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=words(expected)):
        select(strategy, np.zeros((2, k)), **arguments)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_selections_that_work_pass(strategy):
    check_strategy(strategy, 2, **STRATEGIES[strategy])
    absent = dict.fromkeys({"m", "fraction", "min_score"} - STRATEGIES[strategy].keys())
    check_strategy(strategy, 2, **STRATEGIES[strategy], **absent)  # None means not given


def shares(strategy: str, scores_K, times: int = 40_000, **arguments) -> np.ndarray:
    """How often each of K samples is selected, of so many equal prompts."""
    chosen_M2 = select(strategy, np.tile(scores_K, (times, 1)), seed=7, **arguments)
    return np.bincount(chosen_M2[:, 1], minlength=len(scores_K)) / times


def test_random_selects_each_finite_sample_equally_often():
    found = shares("random", [5.0, -1e308, NAN, 1e308, 0.0])
    np.testing.assert_allclose(found, [0.25, 0.25, 0, 0.25, 0.25], atol=0.01)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_soft_selects_by_the_softmax_of_scores(temperature):
    scores_K = np.array([0.0, 1.0, -1.0, NAN, 1.0])
    expected_K = np.where(np.isfinite(scores_K), np.exp(scores_K / temperature), 0)
    found = shares("soft", scores_K, temperature=temperature)
    np.testing.assert_allclose(found, expected_K / expected_K.sum(), atol=0.01)


def test_soft_is_best_of_k_where_the_temperature_is_low_and_random_where_it_is_high():
    scores_PK = np.random.default_rng(0).normal(size=(50, 6))
    cold = soft_best(scores_PK, 1e-300, np.random.default_rng(1))
    assert cold.tolist() == best_of_k(scores_PK).tolist()
    hot = select("soft", scores_PK, temperature=1e300, seed=3)
    assert hot.tolist() == select("random", scores_PK, seed=3).tolist()
    assert select("soft", [[-1e308, 1e308]], temperature=1e-300).tolist() == [[0, 1]]


def test_poisson_selects_the_best_of_a_poisson_number_of_samples():
    scores_K, mean = np.array([1.0, 3.0, 2.0, 4.0]), 1.2
    expected_K = np.zeros(4)
    for n in range(60):  # n beyond the first
        weight = math.exp(-mean) * mean**n / math.factorial(n)
        expected_K[int(np.argmax(scores_K[: 1 + n]))] += weight
    np.testing.assert_allclose(shares("poisson", scores_K, mean=mean), expected_K, atol=0.01)


@pytest.mark.parametrize("strategy", DRAWING)
def test_what_is_drawn_follows_from_the_seed(strategy):
    scores_PK = np.random.default_rng(0).normal(size=(40, 8))
    drawn = [
        select(strategy, scores_PK, seed=s, **STRATEGIES[strategy]).tolist() for s in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_best_of_k_works_with_one_sample():
    check_strategy("best_of_k", 1)
