"""What an earlier version wrote is read, resumed and finished by this one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import toy_runs

from raft.cli.main import main
from raft.config import load_config
from rewards import load_reward
from rollout.storage.output import identity

FILES = Path(__file__).parent / "data" / "af30b28"
SCORE = ["score", "--quiet", "--reward", "function:length", "--batch-rows", "2", "rows.jsonl"]


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder that the earlier version worked in, as the current folder."""
    shutil.copytree(FILES, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def command(*arguments: str) -> None:
    # then, every iteration was evaluated by default
    often = ["eval.every=1"] if arguments[0] == "run" else []
    assert main([*arguments, *often, "--quiet"]) == 0


def recognised(output: Path, partial: Path) -> None:
    """Settings know their file by its inode, which a copy of the repository does not keep."""
    settings = output.with_name(f".{output.name}.settings")
    stored = json.loads(settings.read_text())
    stored["file"] = identity(os.stat(partial))[: len(stored["file"])]
    settings.write_text(json.dumps(stored))


def assert_same_results(run: Path, other: Path) -> None:
    """Byte for byte, but for logarithms, whose last digit depends on the processor (numpy)."""
    found, expected = toy_runs.results(run), toy_runs.results(other)
    assert found.keys() == expected.keys()
    for name, content in found.items():
        if not name.endswith("kl.jsonl"):
            assert content == expected[name], name
            continue
        for line, wanted in zip(content.splitlines(), expected[name].splitlines(), strict=True):
            row, told = json.loads(line), json.loads(wanted)
            assert row.pop("id") == told.pop("id")
            assert row == {key: pytest.approx(told[key], rel=1e-12) for key in told}


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(old: Path) -> None:
    config = old / "run/config.yaml"
    before = {file: file.read_bytes() for file in (old / "run").rglob("*.*") if file != config}
    settings = load_config(config)
    command("run", "run.yaml")
    assert {file: file.read_bytes() for file in before} == before
    # the config may be spelled in other words, and says the same
    assert load_config(config) == settings


@pytest.mark.slow
def test_a_run_repeats_and_goes_on(old: Path) -> None:
    # the same seed draws, scores and selects the same rows, and old iterations take new ones
    command("run", "run.yaml", "run_dir=again")
    assert_same_results(old / "again", old / "run")
    command("run", "run.yaml", "iterations=3")
    command("run", "run.yaml", "iterations=3", "run_dir=again")
    assert_same_results(old / "again", old / "run")


@pytest.mark.slow
def test_a_stopped_iteration_is_finished(old: Path) -> None:
    before = (old / "stopped/iterations/002/.rollouts.samples").read_bytes()
    assert before.count(b"\n") > 0
    command("run", "run.yaml", "run_dir=stopped")
    assert_same_results(old / "stopped", old / "run")
    assert toy_runs.hidden(old / "stopped") == []
    # what was drawn is taken over and not drawn anew
    trained = [row for row in toy_runs.metrics(old / "stopped") if row["phase"] == "train"]
    assert trained[-1]["rollout/reused"] > 0


@pytest.mark.slow
def test_a_run_is_shown_and_replayed(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command("report", "run", "--out", "run.html")
    assert (old / "run.html").stat().st_size > 10_000
    command("curves", "run", "--out", "run.png", "--data", "run.json")
    drawn = json.loads((old / "run.json").read_text())
    assert "eval/reward_mean" in json.dumps(drawn) and (old / "run.png").stat().st_size > 0
    capsys.readouterr()
    command("replay", "run", "--k", "3", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["same_as_selected"] == {"iteration 1": True, "iteration 2": True}
    trained = [row for row in toy_runs.metrics(old / "run") if row["phase"] == "train"]
    for part, row in zip(found["by_part"].values(), trained, strict=True):
        reward = part[0]["values"]["reward"]["mean"]
        assert reward == pytest.approx(row["select/reward_mean"])


def test_a_scored_file_is_done_and_a_half_one_is_finished(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scored = (old / "scored.jsonl").read_bytes()
    recognised(old / "scored.jsonl", old / "scored.jsonl")
    capsys.readouterr()
    command(*SCORE, "--out", "scored.jsonl", "--json")
    assert (old / "scored.jsonl").read_bytes() == scored
    recognised(old / "half.jsonl", old / ".half.jsonl.partial")
    command(*SCORE, "--out", "half.jsonl", "--json")
    assert (old / "half.jsonl").read_bytes() == scored
    # three responses to each of six prompts; four prompts had been finished
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["conversations"] for one in found] == [18, 18]
    assert [one["new_conversations"] for one in found] == [18, 6]  # the first as it was recorded


def test_a_trained_reward_model_scores_as_recorded(old: Path) -> None:
    rows = toy_runs.rows(old / "model_scores.jsonl")
    sides = ("chosen", "rejected")
    conversations: list[Any] = [
        [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}]
        for row in rows
        for side in sides
    ]
    recorded = [row[f"{side}_score"] for row in rows for side in sides]
    found = load_reward(old / "trained/model").score(conversations)
    assert found.tolist() == pytest.approx(recorded, abs=1e-6)
