"""pass@k and maj@k against every subset there is."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations
from statistics import fmean

import numpy as np
import pytest

from raft.bon.estimate import expected_best_of_n
from rewards.evaluation.pass_at_k import SILENT, majority_at_k, pass_at_k, weighted_majority_at_k

RIGHT = 0


def pools(count: int, most: int = 7):
    """Labels of small pools, right answers, silent ones and ties among them."""
    rng = random.Random(7)
    for _ in range(count):
        yield [rng.choice([RIGHT, RIGHT, 1, 1, 2, 3, SILENT]) for _ in range(rng.randint(1, most))]


def vote(labels, weights) -> float:
    """The share of the right answer in the first place, votes added up one by one."""
    sums: dict[int, float] = {}
    for label, weight in zip(labels, weights, strict=True):
        if label != SILENT and np.isfinite(weight):
            sums[label] = sums.get(label, 0.0) + weight
    best = [label for label, total in sums.items() if total == max(sums.values())]
    return best.count(RIGHT) / len(best) if best else 0.0


def over_subsets(labels, weights, k, value) -> float:
    found = combinations(range(len(labels)), k)
    return fmean(value([labels[i] for i in one], [weights[i] for i in one]) for one in found)


def counts(labels) -> tuple[int, list[int], int]:
    votes = Counter(labels)
    right, silent = votes.pop(RIGHT, 0), votes.pop(SILENT, 0)
    return right, list(votes.values()), silent


@pytest.mark.parametrize("labels", list(pools(30)))
def test_every_metric_is_its_mean_over_all_subsets(labels):
    ones = [1.0] * len(labels)
    right, others, silent = counts(labels)
    for k in range(1, len(labels) + 1):
        anyone = over_subsets(labels, ones, k, lambda one, _: float(RIGHT in one))
        assert pass_at_k(len(labels), right, k) == pytest.approx(anyone, abs=1e-12)
        voted = over_subsets(labels, ones, k, vote)
        assert majority_at_k(right, others, silent, k) == pytest.approx(voted, abs=1e-9)


def test_pass_at_k_is_that_of_the_paper():
    # the closed form with whole numbers, where factorials are large
    from math import comb

    for total, right, k in ((200, 13, 100), (1000, 1, 999), (50, 0, 3), (50, 50, 1), (10, 4, 7)):
        closed = 1 - comb(total - right, k) / comb(total, k)
        assert pass_at_k(total, right, k) == pytest.approx(closed, abs=1e-12)


@pytest.mark.slow
def test_a_majority_among_many_answers_is_that_of_random_subsets():
    labels = [RIGHT] * 60 + [1] * 70 + [2] * 40 + list(range(3, 63)) + [SILENT] * 26
    rng = random.Random(0)
    for k in (1, 5, 32, 128):
        drawn = [vote(rng.sample(labels, k), [1.0] * k) for _ in range(3000)]
        spread = 5 * np.std(drawn) / np.sqrt(len(drawn))
        assert abs(majority_at_k(*counts(labels), k) - fmean(drawn)) < spread + 1e-6
    assert majority_at_k(*counts(labels), 1) == pytest.approx(60 / 256)
    assert majority_at_k(*counts(labels), 256) == 0.0  # 70 votes against 60


def test_ties_are_shared_and_silence_wins_nothing():
    assert majority_at_k(1, [1], 0, 2) == pytest.approx(1 / 2)
    assert majority_at_k(1, [1, 1], 5, 8) == pytest.approx(1 / 3)
    assert majority_at_k(0, [], 4, 2) == 0.0
    assert majority_at_k(1, [], 3, 4) == pytest.approx(1.0)


@pytest.mark.parametrize("labels", list(pools(12, most=6)))
def test_a_weighted_majority_is_unbiased_and_exact_where_nothing_is_drawn(labels):
    rng = random.Random(len(labels))
    weights = [rng.choice([0.25, 0.5, 1.0, 3.0, float("nan")]) for _ in labels]
    total = len(labels)
    whole = weighted_majority_at_k(labels, weights, total, draws=1, seed=0)
    assert whole == pytest.approx(vote(labels, weights))
    for k in range(1, total):
        found = weighted_majority_at_k(labels, weights, k, draws=4000, seed=k)
        assert found == pytest.approx(over_subsets(labels, weights, k, vote), abs=0.045)


def test_equal_weights_are_plain_votes():
    labels = [RIGHT, 1, 1, RIGHT, 2, SILENT, RIGHT]
    for k in (2, 5, 7):
        weighed = weighted_majority_at_k(labels, [0.1] * 7, k, draws=20_000, seed=1)
        assert weighed == pytest.approx(majority_at_k(*counts(labels), k), abs=0.02)


def test_an_answer_nobody_gave_loses_to_a_negative_one():
    assert weighted_majority_at_k([RIGHT], [-2.0], 1, draws=1, seed=0) == 1.0
    assert weighted_majority_at_k([1], [-2.0], 1, draws=1, seed=0) == 0.0


def test_the_best_by_a_score_that_knows_is_right_as_soon_as_any_is():
    rng = np.random.default_rng(0)
    correct_PN = (rng.random((40, 12)) < 0.3).astype(float)
    for k in (1, 3, 12):
        best_P = expected_best_of_n(correct_PN, k, correct_PN)
        passed_P = [pass_at_k(12, int(row.sum()), k) for row in correct_PN]
        assert best_P == pytest.approx(passed_P)


def test_wrong_counts_are_refused():
    for total, right, k in ((3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)):
        with pytest.raises(ValueError, match="must be"):
            pass_at_k(total, right, k)
    for arguments in ((1, [1], 0, 3), (1, [-1], 2, 1), (1, [1], -1, 1)):
        with pytest.raises(ValueError, match="must be"):
            majority_at_k(*arguments)
    with pytest.raises(ValueError, match="k must be"):
        weighted_majority_at_k([0], [1.0], 2, draws=1, seed=0)
