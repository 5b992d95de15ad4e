"""The study of updates: its runs load, its numbers are those of the metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.updates.measure import Point, best_rate, mean, points, reached
from experiments.updates.study import GRIDS, RATES, REWARDS, Setting, Variant, all_settings
from raft.config.load import load_config

CONFIG = Path(__file__).parents[2] / "experiments" / "updates" / "raft.yaml"


def test_every_run_has_a_folder_of_its_own():
    runs = list(all_settings("updates", REWARDS, 3))
    assert len({run.name for run in runs}) == len(runs) == 3 * 2 * (6 * len(RATES) + 2)
    runs = list(all_settings("batches", ["words"], 3))
    assert len({run.name for run in runs}) == len(runs) == 3 * 8 * len(RATES)


@pytest.mark.parametrize("grid", GRIDS)
def test_every_variant_is_a_config(grid: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("RAFT_DATA", "POLICY_PROMPTS", "HELD_OUT_PROMPTS"):
        monkeypatch.setenv(name, str(tmp_path / name))
    base = load_config(CONFIG)
    for label, variant in GRIDS[grid].items():
        config = load_config(CONFIG, list(variant.overrides))
        assert (config == base) == (label == "sft")
        assert config.sampling.k == base.sampling.k  # as many samples, on average
        assert config.prompts.per_iteration * config.sampling.k == variant.samples
        drawn = config.iterations * variant.samples
        assert drawn == (2048 if grid == "batches" else 1536)


def test_points_count_samples_and_leave_evaluations_out(tmp_path: Path):
    setting = Setting("words", "sft_adaptive", Variant(), 3e-4, 0)
    evaluation = {
        "eval/reward_mean": 1.0, "eval/gold_mean": 2.0, "eval/kl_k1": 3.0, "eval/distinct_2": 0.5,
        "time/eval": 100.0,
    }  # fmt: skip
    rows = [
        {"iteration": 0, "phase": "eval", **evaluation},
        {"iteration": 1, "phase": "train", "rollout/samples": 200, "time/generate": 1.5},
        {"iteration": 2, "phase": "train", "time/generate": 1.0, "time/train": 0.5},
        {"iteration": 2, "phase": "eval", **evaluation},
    ]
    (tmp_path / setting.name).mkdir()
    file = tmp_path / setting.name / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    start, end = points(tmp_path, setting)
    assert start == Point(0, 0, 1, 2, 3, 0.5)
    assert (end.samples, end.seconds) == (456, 3.0)


def test_where_a_reward_was_reached():
    run = [Point(0, 0, 1, 0, 0, 1), Point(256, 10, 3, 0, 4, 0.5), Point(512, 30, 2, 9, 4, 0.5)]
    found = reached(run, "reward", 2.5)
    assert found is not None
    assert (found.samples, found.seconds, found.kl) == pytest.approx((192, 7.5, 3))
    assert reached(run, "reward", 3.5) is None
    assert best_rate({1.0: [run], 2.0: [run[:2]]}) == 1.0


def test_intervals_are_students():
    found = mean([1.0, 2.0, 3.0])
    # t(0.975, 2 degrees) = 4.3027, standard error 1 / sqrt(3)
    assert (found.value, found.half) == pytest.approx((2.0, 4.302653 / 3**0.5), rel=1e-6)
