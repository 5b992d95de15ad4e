"""How often each method picks the best under noise: figures that were computed elsewhere.

u ~ N(0, 1); the judge's log-odds for (i, j) are u_i − u_j + σ·ε_ij with ε_ij = −ε_ji ~ N(0, 1),
drawn once per pair. The reference is an independent simulation of 10 000 draws per cell, its mean u
rounded to two decimals. Tolerances are 4 standard errors of the difference.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rewards.tournament import play

REFERENCE_DRAWS = 10_000
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "sequential": ("sequential", {}),
    "knockout": ("knockout", {}),
    "pivot": ("pivot", {}),
    "copeland": ("round_robin", {"score": "copeland"}),
    "mean_probability": ("round_robin", {"score": "mean_probability"}),
    "mean_logit": ("round_robin", {"score": "mean_logit"}),
}
# (n, σ) -> (P(pick best), mean u of the pick) in the order of METHODS
TABLE = {
    (8, 0.5): [
        (0.740, 1.33),
        (0.753, 1.34),
        (0.679, 1.28),
        (0.761, 1.35),
        (0.858, 1.40),
        (0.869, 1.40),
    ],
    (8, 1.0): [
        (0.553, 1.13),
        (0.581, 1.19),
        (0.478, 1.02),
        (0.625, 1.24),
        (0.730, 1.33),
        (0.746, 1.34),
    ],
    (8, 2.0): [
        (0.354, 0.74),
        (0.408, 0.89),
        (0.307, 0.65),
        (0.476, 1.02),
        (0.544, 1.13),
        (0.563, 1.16),
    ],
    (32, 1.0): [
        (0.379, 1.51),
        (0.471, 1.77),
        (0.301, 1.46),
        (0.625, 1.94),
        (0.775, 2.03),
        (0.808, 2.04),
    ],
}
DRAWS = {8: 1500, 32: 400}


class NoisyJudge:
    def __init__(self, n: int, sigma: float, draws: int) -> None:
        rng = np.random.default_rng([n, int(10 * sigma)])
        self.quality_PN = rng.normal(size=(draws, n))
        noise_PNN = np.triu(rng.normal(size=(draws, n, n)), 1)
        self._noise_PNN = sigma * (noise_PNN - noise_PNN.transpose(0, 2, 1))

    def __call__(self, matches) -> np.ndarray:
        p_M, i_M, j_M = np.array(matches).T
        u_PN = self.quality_PN
        margin_M = u_PN[p_M, i_M] - u_PN[p_M, j_M] + self._noise_PNN[p_M, i_M, j_M]
        return 1 / (1 + np.exp(-margin_M))


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(("n", "sigma"), sorted(TABLE))
def test_the_table_is_reproduced(n, sigma):
    draws = DRAWS[n]
    judge = NoisyJudge(n, sigma, draws)
    both = math.sqrt(1 / draws + 1 / REFERENCE_DRAWS)
    for (method, settings), (hits, mean) in zip(METHODS.values(), TABLE[n, sigma], strict=True):
        standings = play(method, [n] * draws, judge, **settings)
        picks_P = np.array([standing.winner for standing in standings])
        u_P = judge.quality_PN[np.arange(draws), picks_P]
        found = np.mean(picks_P == judge.quality_PN.argmax(axis=1))
        print(f"{n=} {sigma=} {settings}: {found:.3f} ({hits}), {u_P.mean():.3f} ({mean})")
        assert abs(found - hits) < 4 * math.sqrt(hits * (1 - hits)) * both + 0.0005
        assert abs(u_P.mean() - mean) < 4 * u_P.std() * both + 0.005
