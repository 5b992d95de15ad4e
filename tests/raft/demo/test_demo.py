"""`raft demo`, small: the whole story through real engines, and its continuation."""

from __future__ import annotations

import json

import pytest

from raft.demo.demo import Size, run_demo
from raft.runs.metrics import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.pictures]

SMALL = Size(texts=600, pairs=200, prompts=64, per_iteration=16, held_out=16, iterations=1)


@pytest.mark.thorough
def test_demo_tells_the_whole_story_and_keeps_what_is_finished(tmp_path, capsys):
    folder = run_demo(tmp_path / "demo", seed=3, size=SMALL)
    first = capsys.readouterr().out
    rows = read_metrics(folder)
    assert [row["iteration"] for row in rows] == [0, 1]
    # both rewards are measured on every policy, each with its interval
    for row in rows:
        assert {"eval/reward_mean", "eval/reward_ci95", "eval/gold_mean", "eval/gold_ci95"} <= set(
            row
        )
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "configs/hh_gpt_neo_2.7b.yaml" in first
    for part in ("policy", "reward_model/model"):
        assert (tmp_path / "demo" / part / "config.json").exists()
    assert "held-out pairs" in (tmp_path / "demo" / "reward_model" / "README.md").read_text()

    # the preferences come from the policy, about training prompts alone
    held_out = {
        json.loads(line)["prompt"]
        for line in (tmp_path / "demo" / "held_out.jsonl").read_text().splitlines()
    }
    pairs = (tmp_path / "demo" / "preferences.jsonl").read_text().splitlines()
    assert pairs and not held_out & {json.loads(pair)["prompt"] for pair in pairs}

    # the second time everything is there, and the table is the same
    before = (folder / "metrics.jsonl").read_bytes()
    run_demo(tmp_path / "demo", seed=3, size=SMALL)
    again = capsys.readouterr().out
    assert again.count("kept)") == 2
    assert (folder / "metrics.jsonl").read_bytes() == before
