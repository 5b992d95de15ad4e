"""What tells a stale engine in 16 bits: no false alarm, and no update that is visible is missed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from raft.workers.weight_check import CheckResult, Noise, Probe

TRIALS = 1000
SIGMA = 0.02  # nats per token, as measured for policies in bfloat16


def judged(
    rng: np.random.Generator, share: float, *, update: float, trainer: float, tokens: int = 2048
) -> CheckResult:
    """An engine that shows `share` of an update of so many sigmas per token.

    Noise and updates are heavy-tailed (Student's t with 4 and 3 degrees of freedom), `trainer` is
    its noise over the engine's.
    """

    def noise(scale: float) -> Any:
        return scale * SIGMA * rng.standard_t(4, tokens) / math.sqrt(2)

    truth = rng.normal(-2, 1, tokens)
    way = update * SIGMA * rng.standard_t(3, tokens) / math.sqrt(3)
    at_start = np.abs(noise(1) - noise(trainer))
    normal = Noise(float(at_start.mean()), float(np.sqrt((at_start**2).mean())))
    old, new = truth + noise(trainer), truth + way + noise(trainer)
    probe = Probe(((0,),), tuple(new), tuple(old), normal, exact=False)
    return probe.compare(truth + share * way + noise(1))


@pytest.mark.slow
@pytest.mark.parametrize("trainer", [0.0, 1.0])
@pytest.mark.parametrize("update", [0.0, 0.3, 1.0, 3.0])
def test_clean_syncs_never_alarm_in_16_bits(update: float, trainer: float) -> None:
    rng = np.random.default_rng(0)
    verdicts = (judged(rng, 1.0, update=update, trainer=trainer) for _ in range(TRIALS))
    assert [str(one) for one in verdicts if one.fault] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "update", "trainer"), [(0.0, 0.5, 0.0), (0.0, 1.5, 1.0), (2.0, 0.5, 0.0), (2.0, 5, 1)]
)
def test_stale_engines_and_updates_made_twice_are_seen(
    share: float, update: float, trainer: float
) -> None:
    # below the noise of a token, which a tolerance on the difference can never see
    rng = np.random.default_rng(0)
    verdicts = [judged(rng, share, update=update, trainer=trainer) for _ in range(TRIALS)]
    assert sum(one.fault is not None for one in verdicts) >= 0.995 * TRIALS


def test_exact_engines_may_not_be_a_part_of_an_update_away() -> None:
    old, new = (-1.0, -2.0, -3.0), (-1.001, -2.001, -2.999)
    probe = Probe(((1, 2, 3, 4),), new, old, Noise(1e-6, 1e-6))
    assert probe.compare(new).fault is None and probe.compare(new).share == pytest.approx(1)
    most = [0.2 * a + 0.8 * b for a, b in zip(old, new, strict=True)]
    assert probe.compare(most).share == pytest.approx(0.8)
    assert "differ from the trainer's" in str(probe.compare(most).fault)
    assert "log-probabilities for 3 tokens" in str(probe.compare(new[:2]).fault)
    assert probe.compare([math.nan] * 3).fault


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("update", [1e-7, 1e-5, 1e-3])
def test_noise_that_grew_since_the_start_is_no_update(exact: bool, update: float) -> None:
    # a policy that learns hardly anything more, and is sharper than the one that was measured
    rng, noise = np.random.default_rng(0), 2e-5 if exact else 2e-3
    normal = Noise(noise / 20, noise / 20)
    for _ in range(TRIALS):
        old, way = rng.normal(-2, 1, 256), update * rng.standard_t(3, 256)
        engine = old + way + noise * rng.standard_t(4, 256)
        probe = Probe(((0,),), tuple(old + way), tuple(old), normal, exact)
        assert probe.compare(engine.tolist()).fault is None
