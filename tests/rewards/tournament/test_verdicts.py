"""Verdicts: both orders averaged, against the formulas written out in high precision."""

from __future__ import annotations

from decimal import Decimal, getcontext

import numpy as np
import pytest

from rewards.tournament.verdicts import Verdicts
from rewards.types import RewardError

VALUES = [0.0, 1e-9, 0.3, 1.0, 7.5, 40.0, 1e3, 1e4]
GRID = [sign * value for value in VALUES for sign in (1, -1)]


def exact_sigma(x: float) -> Decimal:
    getcontext().prec = 60
    return 1 / (1 + Decimal(-x).exp())


def all_pairs() -> tuple[np.ndarray, np.ndarray]:
    first, second = np.meshgrid(GRID, GRID)
    return first.ravel(), second.ravel()


def test_formulas():
    d1, d2 = all_pairs()
    verdicts = Verdicts.from_log_odds(d1, d2)
    for at in range(len(verdicts)):
        s1, s2 = exact_sigma(d1[at]), exact_sigma(d2[at])
        assert verdicts.probability_N[at] == pytest.approx(float((s1 + 1 - s2) / 2), abs=1e-15)
        assert verdicts.gap_N[at] == pytest.approx(float(s1 - (1 - s2)), abs=1e-15)
    np.testing.assert_allclose(verdicts.margin_N, (d1 - d2) / 2)


def test_swapping_is_antisymmetric_and_nothing_overflows():
    d1, d2 = all_pairs()
    with np.errstate(all="raise", under="ignore"):
        one, other = Verdicts.from_log_odds(d1, d2), Verdicts.from_log_odds(d2, d1)
    np.testing.assert_allclose(one.probability_N + other.probability_N, 1, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(one.margin_N, -other.margin_N)
    np.testing.assert_array_equal(one.gap_N, other.gap_N)
    assert ((one.probability_N >= 0) & (one.probability_N <= 1)).all()


def test_equal_log_odds_are_an_exact_tie():
    d = np.concatenate([GRID, np.random.default_rng(0).normal(scale=5, size=1000)])
    assert (Verdicts.from_log_odds(d, d).probability_N == 0.5).all()
    assert (Verdicts.from_log_odds(d, -d).gap_N == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_log_odds_that_are_not_finite_are_errors_unless_said_to_be_missing(bad):
    with pytest.raises(RewardError, match="for comparison 1"):
        Verdicts.from_log_odds([0.0, bad], [0.0, 0.0])
    verdicts = Verdicts.from_log_odds([1.0, bad], [0.0, 0.0], missing_N=[False, True])
    assert verdicts.missing_N.tolist() == [False, True]
    assert np.isfinite(verdicts.probability_N[0])
    assert np.isnan([verdicts.probability_N[1], verdicts.margin_N[1], verdicts.gap_N[1]]).all()


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one shape"):
        Verdicts.from_log_odds([0.0, 1.0], [0.0])
    with pytest.raises(ValueError, match="one shape"):
        Verdicts(np.zeros(2), np.zeros(2), np.zeros(1), np.zeros(2, bool))
