"""`raft replay` where points of a tournament select: at which K, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from raft.cli.main import main
from rewards.tournament import play

N = 8
BRACKETS = ["knockout", "sequential", "swiss", "double_elimination", "best_and_worst", "pivot"]


def judged_run(root: Path, reward: dict[str, Any], prompts: int = 400, noise: float = 0.0) -> Path:
    """A run of one iteration: N responses, `gold_scores` their quality, which a judge compares."""
    rng = np.random.default_rng(0)
    quality_PN = rng.normal(size=(prompts, N))
    error_PNN = noise * rng.normal(size=(prompts, N, N))
    chance_PNN = 1 / (
        1 + np.exp(-3 * (quality_PN[:, :, None] - quality_PN[:, None, :] + error_PNN))
    )

    def judge(matches: Any) -> list[float]:
        # one verdict per pair, whichever of the two comes first
        return [
            float(chance_PNN[p, i, j] if i < j else 1 - chance_PNN[p, j, i]) for p, i, j in matches
        ]

    keys = [f"p{p}" for p in range(prompts)]
    parts = [reward, *reward.get("members", [])]
    (judged,) = [part for part in parts if part["kind"] == "pairwise"]
    method = judged.get("tournament", "knockout")
    played = play(method, [N] * prompts, judge, seed=1, keys=keys)
    folder = root / "iterations" / "001"
    folder.mkdir(parents=True)
    rows = [
        {
            "id": key,
            "prompt": "say",
            "responses": [f"answer {k}" for k in range(N)],
            "scores": list(standing.scores),
            "gold_scores": quality_N.tolist(),
            "comparisons": standing.played.among(range(N)),
        }
        for key, standing, quality_N in zip(keys, played, quality_PN, strict=True)
    ]
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "run_dir": str(root), "iterations": 1, "policy": {"model": "toy", "engine": "toy"},
        "prompts": {"path": "prompts.jsonl", "per_iteration": prompts},
        "sampling": {"k": N}, "reward": reward,
    }  # fmt: skip
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    return root


def replayed(capsys: pytest.CaptureFixture[str], run: Path, *options: str) -> dict[str, Any]:
    code = main(["replay", "--quiet", str(run), *options, "--json"])
    said = capsys.readouterr()
    assert code == 0, said.err
    return json.loads(said.out)


def golds(report: dict[str, Any], rule: str = "best_of_k") -> dict[int, float]:
    rows = [row for row in report["results"] if row["rule"] == rule]
    return {row["k"]: row["values"]["gold"]["mean"] for row in rows}


def best_of(run: Path, k: int) -> float:
    """The quality that a judge without noise finds among k: the mean of the best of k."""
    file = run / "iterations" / "001" / "rollouts.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rng = np.random.default_rng(5)
    draws = [
        max(rng.choice(row["gold_scores"], k, replace=False)) for row in rows for _ in range(20)
    ]
    return float(np.mean(draws))


def about_points(report: dict[str, Any]) -> list[str]:
    return [note for note in report["notes"] if note.startswith("points of ")]


@pytest.mark.slow
@pytest.mark.parametrize("method", BRACKETS)
def test_a_bracket_s_points_are_swept_where_they_tell_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    run = judged_run(tmp_path / "run", {"kind": "pairwise", "model": "m", "tournament": method})
    report = replayed(capsys, run)
    found = golds(report)
    # every number that is given is what a tournament of K finds
    assert found == {1: pytest.approx(best_of(run, 1), abs=0.03), N: pytest.approx(best_of(run, N))}
    (note,) = about_points(report)
    assert f"points of {method} among all N" in note and "understate" in note
    # two of a single response cannot be, nor does a threshold of points mean the same of one
    more = replayed(capsys, run, "--strategy", "top_m:m=2,threshold:minimum=1")
    assert {(row["rule"], row["k"]) for row in more["results"]} == {
        ("as run", N), ("top_m m=2", N), ("threshold min_score=1", N),
    }  # fmt: skip
    assert about_points(more) == [note]


@pytest.mark.slow
def test_k_that_is_asked_for_is_tried_and_its_bias_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = judged_run(tmp_path / "run", {"kind": "pairwise", "model": "m"})
    report = replayed(capsys, run, "--k", "2,4")
    found = golds(report)
    # the reason for the note: a knockout of K finds the best of K, its points among N do not
    assert all(found[k] < best_of(run, k) - 0.08 for k in (2, 4))
    (note,) = about_points(report)
    assert "points of knockout" in note and "understate" in note and "--tournament" in note
    # nothing is said where all that is stored is asked for, or another column selects
    assert about_points(replayed(capsys, run, "--k", "1,8")) == []
    by_gold = replayed(capsys, run, "--reward-weights", "gold_scores=1")
    assert about_points(by_gold) == [] and sorted(golds(by_gold)) == [1, 2, 4, 8]


@pytest.mark.slow
def test_a_round_robin_is_swept_and_plays_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reward = {"kind": "pairwise", "model": "m", "tournament": "round_robin"}
    run = judged_run(tmp_path / "run", reward, noise=1.5)
    report = replayed(capsys, run)
    stored = golds(report)
    assert sorted(stored) == [1, 2, 4, 8]
    (note,) = about_points(report)
    assert "overstate" in note and "--tournament round_robin" in note
    # comparisons are stored of every pair: K of them are played as a judge would have them played
    again = replayed(capsys, run, "--tournament", "round_robin,knockout")
    assert about_points(again) == []
    real = golds(again, "round_robin")
    assert all(stored[k] > real[k] + 0.02 for k in (2, 4))
    assert stored[N] == pytest.approx(real[N])
    assert all(row.get("missing", {}).get("prompts", 0) == 0 for row in again["results"])


@pytest.mark.slow
def test_a_judge_within_a_combination_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = [
        {"kind": "pairwise", "model": "m", "tournament": "swiss"},
        {"kind": "function", "function": "length"},
    ]
    run = judged_run(tmp_path / "run", {"kind": "combine", "members": members}, prompts=20)
    report = replayed(capsys, run)
    assert report["own"]["judged"] == {"scores": ["swiss"]}
    assert sorted(golds(report)) == [1, N] and "swiss" in about_points(report)[0]
    # the table and the picture have what there is
    out = tmp_path / "out"
    assert main(["replay", "--quiet", str(run), "--out-dir", str(out)]) == 0
    assert "points of swiss" in (out / "replay.md").read_text()
    assert (out / "replay.svg").stat().st_size > 0


def test_a_judge_that_is_gold_leaves_the_sweep_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = judged_run(tmp_path / "run", {"kind": "pairwise", "model": "m"}, prompts=20)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["gold"], config["reward"] = config["reward"], {"kind": "function", "function": "length"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    report = replayed(capsys, run)
    assert [row["k"] for row in report["results"]] == [8, 1, 2, 4, 8]
    assert about_points(report) == []
    by_gold = replayed(capsys, run, "--reward-weights", "scores=1,gold_scores=1")
    assert [row["k"] for row in by_gold["results"]] == [8, 1, 8]
    assert len(about_points(by_gold)) == 1
