"""Bradley-Terry strengths against closed forms and an independent optimiser."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from rewards.tournament.bradley_terry import PRIOR_PRECISION, bradley_terry


def fitted_by_torch(n: int, pairs, probability, precision: float) -> np.ndarray:
    """The same maximum, found by quasi-Newton steps on automatic derivatives."""
    import torch

    index = torch.tensor(pairs)
    p = torch.tensor(probability, dtype=torch.float64)
    theta = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [theta],
        max_iter=2000,
        tolerance_grad=1e-13,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def loss():
        optimiser.zero_grad()
        gap = theta[index[:, 0]] - theta[index[:, 1]]
        value = torch.nn.functional.binary_cross_entropy_with_logits(gap, p, reduction="sum")
        value = value + precision / 2 * (theta**2).sum()
        value.backward()
        return value

    optimiser.step(loss)
    found = theta.detach().numpy()
    return found - found.mean()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("outcomes", ["soft", "hard"])
def test_the_maximum_is_that_of_another_optimiser(seed, outcomes):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 12))
    pairs = [pair for pair in combinations(range(n), 2) if rng.uniform() < 0.7]
    pairs += [(i, i + 1) for i in range(n - 1)]  # some pairs twice, all connected
    p = rng.uniform(size=len(pairs))
    p = np.round(p) if outcomes == "hard" else p
    # the stronger prior keeps what separable outcomes lead to within the other's reach
    precision = 1e-2 if outcomes == "hard" else PRIOR_PRECISION
    expected = fitted_by_torch(n, pairs, p, precision)
    np.testing.assert_allclose(bradley_terry(n, pairs, p, precision), expected, atol=1e-5)


@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.9, 0.999])
def test_two_responses_differ_by_the_log_odds(p):
    theta = bradley_terry(2, [(0, 1)], [p])
    assert theta[0] - theta[1] == pytest.approx(np.log(p / (1 - p)), abs=5e-3)
    assert theta.sum() == pytest.approx(0)


def test_two_responses_with_a_prior_satisfy_the_score_equation():
    for precision in (1e-4, 0.1, 3.0):
        half = bradley_terry(2, [(0, 1)], [1.0], precision)[0]
        # p − σ(2θ) = λθ with p = 1
        assert 1 - 1 / (1 + np.exp(-2 * half)) == pytest.approx(precision * half, rel=1e-6)


def test_exact_probabilities_give_back_the_strengths():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=10)
    truth -= truth.mean()
    pairs = list(combinations(range(10), 2))
    p = [1 / (1 + np.exp(truth[j] - truth[i])) for i, j in pairs]
    np.testing.assert_allclose(bradley_terry(10, pairs, p), truth, atol=1e-5)


def test_all_pairs_once_rank_as_the_mean_probability():
    # the expected wins of a strength rise with it, and at the maximum equal the wins
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n = 9
        pairs = list(combinations(range(n), 2))
        p = rng.uniform(size=len(pairs))
        wins = np.zeros(n)
        for (i, j), share in zip(pairs, p, strict=True):
            wins[i] += share
            wins[j] += 1 - share
        assert bradley_terry(n, pairs, p).argsort().tolist() == wins.argsort().tolist()


def test_undefeated_and_unconnected_stay_finite():
    chain = [(i, i + 1) for i in range(32)]
    theta = bradley_terry(33, chain, [1.0] * 32)
    assert np.isfinite(theta).all() and (np.diff(theta) < 0).all()
    apart = bradley_terry(4, [(0, 1), (2, 3)], [1.0, 0.7])
    assert np.isfinite(apart).all() and apart[2] > apart[3]
    assert bradley_terry(3, [], []).tolist() == [0, 0, 0]


def test_equal_results_are_equal_strengths():
    pairs = [(0, 1), (1, 2), (2, 0)]
    np.testing.assert_allclose(bradley_terry(3, pairs, [1.0] * 3), 0, atol=1e-9)
