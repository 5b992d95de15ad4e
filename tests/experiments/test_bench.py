"""The benchmark programs without engines: their arithmetic, and that `--help` answers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from experiments.bench import early_rejection, growth, overhead, raft_loop
from experiments.bench.table import table

ROOT = Path(__file__).parents[2]
PROGRAMS = (
    "raft_loop", "bare_raft", "toolkit_raft", "grpo", "generation", "judge", "overhead",
    "best_of_n", "growth", "replay", "report", "reward_engines", "reward_training", "scoring",
    "early_rejection", "overlap",
)  # fmt: skip


def run_folder(folder: Path) -> Path:
    """Iteration 1 is whole; iteration 2 was resumed after its training."""
    rows = [
        {"iteration": 0, "phase": "eval", "time/eval": 1.0, "time/iteration": 1.0},
        {
            "iteration": 1, "phase": "train", "time/generate": 5.0, "time/score": 0.5,
            "time/score_busy": 2.0, "time/select": 0.1, "time/train": 2.0, "time/sync": 0.05,
            "train/seconds": 1.8,
        },
        {"iteration": 1, "phase": "eval", "time/eval": 2.0, "time/iteration": 10.0},
        {"iteration": 2, "phase": "train", "time/generate": 0.0, "time/score": 0.0,
         "time/train": 30.0, "time/sync": 0.0},
        {"iteration": 2, "phase": "eval", "time/eval": 1.0, "time/iteration": 1.0},
    ]  # fmt: skip
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_overhead_shares(tmp_path, capsys):
    overhead.main([str(run_folder(tmp_path / "run")), "--json"])
    found = json.loads(capsys.readouterr().out)
    # what a resumed process did not do itself is no share of its time
    assert found["iterations"] == [1]
    shares = found["median"]
    assert shares["generate"] == pytest.approx(0.5)
    assert shares["sync"] == pytest.approx(0.005)
    assert shares["train: outside the update"] == pytest.approx(0.02)
    assert shares["rest"] == pytest.approx(0.045)
    stages = (*overhead.STAGES, "rest")
    assert sum(shares[name] for name in stages) == pytest.approx(1.0)


def test_overhead_table(tmp_path, capsys):
    overhead.main([str(run_folder(tmp_path / "run"))])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["rest", "4.50%", "4.50%", "<", "10%"] for line in lines)


def test_overhead_without_an_iteration(tmp_path):
    row = {"iteration": 0, "phase": "eval", "time/eval": 1.0, "time/iteration": 1.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(SystemExit, match="no iteration"):
        overhead.main([str(tmp_path)])


def test_seconds_to_a_reward_lie_on_straight_lines():
    run = [(0.0, 1.0, 0.5, 0), (10.0, 3.0, 0.4, 100), (20.0, 7.0, 0.2, 200)]
    assert raft_loop.seconds_to(run, 2.0) == pytest.approx(5.0)
    assert raft_loop.seconds_to(run, 5.0) == pytest.approx(15.0)
    assert raft_loop.seconds_to(run, 8.0) is None
    assert raft_loop.samples_to(run, 5.0) == pytest.approx(150)
    assert raft_loop.distinct_2_at(run, 5.0) == pytest.approx(0.3)


def two_points(seconds: float) -> raft_loop.Run:
    return [(0.0, 1.0, 0.5, 0), (seconds, 3.0, 0.5, 256)]


def test_ratios_are_within_a_repeat():
    runs = {
        "toolkit": [two_points(12.0), two_points(40.0)],
        "bare": [two_points(10.0), two_points(20.0)],
    }
    found = raft_loop.summary(runs, target=2.0, samples=128)
    # 256 samples are two iterations of 128
    assert found["variants"]["bare"]["seconds_per_iteration"] == [5.0, 10.0]
    ratios = found["variants"]["toolkit"]["ratios"]
    assert ratios["seconds_per_iteration"] == pytest.approx([1.2, 2.0])
    assert ratios["seconds_to_target"] == pytest.approx([1.2, 2.0])
    assert "toolkit" in raft_loop.report(runs, found)


def test_table_aligns():
    text = table(("way", "n"), [["a", 1], ["long name", None]])
    assert text.splitlines() == ["way        n", "-" * 12, "a          1", "long name  -"]


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_help_answers(program):
    module = f"experiments.bench.{program}"
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"python -m {module}" in done.stdout


def test_growth_is_measured_with_its_exponent():
    found = growth.measure(lambda _, size: time.sleep(size / 10_000), (1_000, 4_000))
    assert "exponent" not in found[0] and 0.9 < found[1]["exponent"] < 1.1


def test_rejecting_early_is_compared_at_equal_tokens() -> None:
    # beginnings that say all, and that say nothing; 4 responses of 10 tokens, cut after 4, one kept
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(4000, 4))
    length = np.full((4000, 4), 10.0)
    knows = early_rejection.compare(whole, whole, length, 4, 1)
    assert knows["foresight"] == pytest.approx(1.0)
    assert knows["reward"] == pytest.approx(whole.max(axis=1).mean())
    # 4 × 4 + 10 tokens, where the one kept is drawn again, are 2.6 responses, and 3 × 4 + 10, where
    # it goes on, 2.2: between the best of 2 and of 3, by all subsets
    two, three = (
        np.mean([whole[:, list(one)].max(axis=1).mean() for one in combinations(range(4), n)])
        for n in (2, 3)
    )
    for way, part in (("", 0.6), ("_going_on", 0.2)):
        assert knows[f"plain{way}"] == pytest.approx((1 - part) * two + part * three)
        assert knows[f"gain{way}"] == pytest.approx(knows["reward"] - knows[f"plain{way}"])
        assert knows[f"saved{way}"] == pytest.approx(1 - (2 + part) / 4)
    # what ends within its beginning is not drawn again
    short = early_rejection.compare(whole, whole, np.full((4000, 4), 4.0), 4, 1)
    assert short["plain"] == short["plain_going_on"] == pytest.approx(whole.max(axis=1).mean())
    ignorant = early_rejection.compare(whole, rng.normal(size=(4000, 4)), length, 4, 1)
    assert abs(ignorant["foresight"]) < 0.05 and abs(ignorant["reward"]) < 0.1
    assert ignorant["gain"] < 0 and ignorant["saved"] < -1
