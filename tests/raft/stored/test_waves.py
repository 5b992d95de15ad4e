"""What drawing in waves would have saved: exact cases, a simulated pool, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_runs import samples, write_rows
from wording import refusal

from raft.adaptive import Adaptive
from raft.bon.estimate import expected_best_of_n
from raft.cli.main import main
from raft.stored.pool import Pool, read_pool
from raft.stored.rules import Scoring
from raft.stored.waves import draw_in_waves, measure_waves
from rollout.errors import InputError


def rows(scores_PN: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "id": f"p{number}",
            "prompt": "say",
            "responses": [f"r{k}" for k in range(len(row))],
            "scores": [None if np.isnan(one) else float(one) for one in row],
            "gold_scores": [0.0 if np.isnan(one) else float(2 * one) for one in row],
        }
        for number, row in enumerate(scores_PN)
    ]


def pool(scores_PN: np.ndarray) -> Pool:
    found = read_pool(samples(rows(scores_PN)), Scoring(), {})
    assert found is not None
    return found


def uneven(prompts: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(prompts, 1)) + rng.normal(size=(prompts, 16))


def test_fixed_k_neither_gains_nor_saves() -> None:
    scores_PN = uneven(20)[:, :6]
    found = measure_waves(
        [pool(scores_PN)], Adaptive(2, 2, 6, 0.0), 6, draws=3, seed=0, resamples=50
    )
    assert found["samples"]["mean"] == 6
    assert found["score"]["mean"] == pytest.approx(scores_PN.max(axis=1).mean())
    assert found["gain"]["mean"] == pytest.approx(0)
    assert found["saved"]["mean"] == pytest.approx(0)


@pytest.mark.slow
def test_means_are_those_of_the_rule_over_random_orders() -> None:
    scores_PN, adaptive = uneven(24), Adaptive(2, 2, 16, 0.02)
    found = measure_waves([pool(scores_PN)], adaptive, 6, draws=60, seed=0, resamples=50)
    rng, drawn, best = np.random.default_rng(9), [], []
    for _ in range(60):
        mixed_PN = rng.permuted(scores_PN, axis=1)
        drawn_P, best_P = draw_in_waves(mixed_PN, adaptive, 6)
        drawn.append(drawn_P.mean())
        best.append(mixed_PN[np.arange(24), best_P].mean())
        assert all(mixed_PN[p, : drawn_P[p]].argmax() == best_P[p] for p in range(24))
    assert found["samples"]["mean"] == pytest.approx(np.mean(drawn), abs=0.05)
    assert found["score"]["mean"] == pytest.approx(np.mean(best), abs=0.02)
    samples_drawn = found["samples"]["mean"]
    assert samples_drawn is not None
    below = int(samples_drawn)
    curve = [expected_best_of_n(scores_PN, k).mean() for k in range(1, 17)]
    fixed = curve[below - 1] + (samples_drawn - below) * (curve[below] - curve[below - 1])
    assert found["gain"]["mean"] == pytest.approx(found["score"]["mean"] - fixed)
    # gold is twice the score here
    gold, gain = found["gold_gain"], found["gain"]["mean"]
    assert gold is not None and gain is not None
    assert gold["mean"] == pytest.approx(2 * gain)


def test_samples_are_saved_where_prompts_differ() -> None:
    found = measure_waves(
        [pool(uneven(64, 1)), pool(uneven(64, 2))],
        Adaptive(2, 2, 16, 0.0), 4, draws=6, seed=0, resamples=200,
    )  # fmt: skip
    low, high = found["saved"]["low"], found["saved"]["high"]
    assert low is not None and high is not None and 0.02 < low < high < 0.5
    assert found["gain"]["low"] is not None and found["gain"]["low"] > 0
    assert found["samples"]["mean"] == pytest.approx(4)


def test_prompts_of_too_few_scores_are_skipped() -> None:
    scores_PN = uneven(12)
    scores_PN[:5, 3:] = np.nan
    adaptive = Adaptive(2, 2, 8, 0.0)
    found = measure_waves([pool(scores_PN)], adaptive, 4, draws=2, seed=0, resamples=50)
    assert (found["prompts"], found["prompts_short"]) == (7, 5)
    with pytest.raises(InputError, match=r"(?i)lower most"):
        measure_waves([pool(scores_PN[:5])], adaptive, 4, draws=2, seed=0, resamples=50)


def test_the_command_measures_waves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_rows(tmp_path / "pool.jsonl", rows(uneven(16)))
    given = ("replay", str(file), "--k", "4,8", "--draws", "2", "--adaptive", "first=2,cost=0")
    assert main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["k"], row["most"]) for row in found["waves"]] == [(4, 16), (8, 16)]
    assert main([*given]) == 0
    assert "In waves: first 2, wave 4, most 16" in capsys.readouterr().out


@pytest.mark.parametrize("settings", ["first=1", "waves=3", "first=9,most=16"])
def test_settings_that_fit_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: str
) -> None:
    file = write_rows(tmp_path / "pool.jsonl", rows(uneven(4)))
    said = refusal(capsys, "replay", file, "--k", "4", "--adaptive", settings)
    assert said.startswith("--adaptive")
