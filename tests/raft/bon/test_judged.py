"""Best-of-n by a judge: the win rate against a sample that took no part in the selection."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_runs
from safetensors.torch import save_file
from wording import says

import raft.bon.judged
from raft.cli.main import main
from rewards.scoring.reading import Reading
from rewards.tournament.verdicts import Verdicts
from rewards.types import Comparison
from rollout.types import Message

tiny: Any = importlib.import_module("tiny_judges")


class ByLength:
    """Certain that the longer text is better."""

    def compare(self, comparisons: Any) -> np.ndarray:
        return self.verdicts(comparisons).probability_N

    def verdicts(self, comparisons: Any, names: Any = None) -> Verdicts:
        gaps_N = np.array([len(one.first) - len(one.second) for one in comparisons], dtype=float)
        return Verdicts.from_log_odds(100 * gaps_N, 100 * gaps_N * -1)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft.bon.judged, "build_judge", lambda spec: ByLength())
    monkeypatch.setattr(Reading, "check", lambda reading, row: None)  # a judge without files
    Path("stand-in").mkdir()
    Path("stand-in/config.json").write_text("{}")
    Path("stand-in/tokenizer.json").write_text("{}")
    save_file({"w": torch.zeros(1)}, "stand-in/model.safetensors")
    Path("judge.yaml").write_text("judge: {kind: pairwise, model: ./stand-in}\n")


def write_pool(path: Path, prompts: int, responses: int, **columns: Any) -> list[list[int]]:
    """Responses of random lengths, all different; returns the lengths."""
    rng = np.random.default_rng(7)
    lengths = [rng.choice(400, responses, replace=False).tolist() for _ in range(prompts)]
    rows = [
        {"prompt": "q", "responses": ["x" * one for one in row], "seeds": [*range(responses)],
         **columns}
        for row in lengths
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lengths


def interrupted_at(call: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ctrl-C in the judge's call of that number; returns how much each call asks, as it is made."""
    asked: list[int] = []
    whole = ByLength.verdicts

    def verdicts(judge: ByLength, comparisons: Any, names: Any = None) -> Verdicts:
        asked.append(len(comparisons))
        if len(asked) == call:
            raise KeyboardInterrupt
        return whole(judge, comparisons)

    monkeypatch.setattr(ByLength, "verdicts", verdicts)
    return asked


def bon(*arguments: str | Path) -> dict[str, Any]:
    assert main(["bon", "--quiet", *map(str, arguments)]) == 0
    return json.loads(Path("pool.bon.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["knockout", "round_robin"])
def test_win_rate_is_that_of_the_best_against_an_independent_sample(
    home: Path, by_length: None, method: str
) -> None:
    """Lengths are exchangeable, so the best of n beats another with probability n / (n + 1)."""
    write_pool(home / "pool.jsonl", 400, 9)
    found = bon("pool.jsonl", "--judge", "judge.yaml", "--method", method)
    assert (found["n"], found["win_rate"], found["points"]) == (8, True, True)
    ns = [row["n"] for row in found["curve"]]
    assert ns == ([1, 8] if method == "knockout" else list(range(1, 9)))
    for row in found["curve"]:
        assert "proxy" not in row, "points of a tournament have no mean"
        truth = row["n"] / (row["n"] + 1)
        assert row["gold"]["low"] - 0.02 < truth < row["gold"]["high"] + 0.02
    # the reference is not among those who compete: 8 / 9, and never 1
    assert found["curve"][-1]["gold"]["high"] < 0.95


def test_rows_are_cut_to_those_who_compete(home: Path, by_length: None) -> None:
    lengths = write_pool(home / "pool.jsonl", 5, 6, source="s")
    bon("pool.jsonl", "--judge", "judge.yaml", "-n", "3")
    rows = toy_runs.rows(home / "pool.judged.jsonl")
    for row, of in zip(rows, lengths, strict=True):
        assert [len(text) for text in row["responses"]] == of[:3]
        assert row["seeds"] == [0, 1, 2] and row["source"] == "s"
        assert len(row["reference"]) == of[-1]
        assert row["win_scores"] == [float(one > of[-1]) for one in of[:3]]
    best = toy_runs.rows(home / "pool.best.jsonl")
    assert [len(row["response"]) for row in best] == [max(of[:3]) for of in lengths]
    assert all({"score", "win_score", "sample"} <= row.keys() for row in best)


@pytest.mark.slow
def test_a_judge_as_gold_of_a_scalar_reward(home: Path, by_length: None) -> None:
    """The proxy prefers short responses: the more it selects, the fewer comparisons are won."""
    lengths = write_pool(home / "pool.jsonl", 300, 5)
    rows = toy_runs.rows(home / "pool.jsonl")
    for row, of in zip(rows, lengths, strict=True):
        row["scores"] = [-float(one) for one in of]
    (home / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("gold.yaml").write_text("reward: {kind: pairwise, model: ./stand-in}\n")
    found = bon("pool.jsonl", "--gold", "gold.yaml")
    assert [row["n"] for row in found["curve"]] == [1, 2, 3, 4]
    assert found["points"] is False and found["curve"][0]["proxy"]["mean"] < 0
    for row in found["curve"]:  # the shortest of n beats one more with probability 1 / (n + 1)
        assert row["gold"]["low"] - 0.03 < 1 / (row["n"] + 1) < row["gold"]["high"] + 0.03


@pytest.mark.slow
def test_going_on_after_an_interruption(
    home: Path, by_length: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rewards.scoring.job

    monkeypatch.setattr(rewards.scoring.job, "CONVERSATIONS_AT_A_TIME", 10)
    write_pool(home / "pool.jsonl", 6, 5)
    bon("pool.jsonl", "--judge", "judge.yaml")
    straight = (home / "pool.judged.jsonl").read_bytes()
    for path in [*home.glob("pool.*"), *home.glob(".pool*")]:
        if path.name != "pool.jsonl":
            path.unlink()
    asked = interrupted_at(5, monkeypatch)
    assert main(["bon", "pool.jsonl", "--judge", "judge.yaml", "--quiet"]) == 130
    asked.append(0)
    assert main(["bon", "pool.jsonl", "--judge", "judge.yaml", "--quiet"]) == 0
    assert (home / "pool.judged.jsonl").read_bytes() == straight
    asked.clear()
    assert main(["bon", "pool.jsonl", "--judge", "judge.yaml", "--quiet"]) == 0
    assert asked == []


def test_another_pool_is_not_gone_on_with(
    home: Path, by_length: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import rewards.scoring.job

    monkeypatch.setattr(rewards.scoring.job, "CONVERSATIONS_AT_A_TIME", 10)
    write_pool(home / "pool.jsonl", 6, 5)
    interrupted_at(5, monkeypatch)
    command = ["bon", "pool.jsonl", "--judge", "judge.yaml", "--quiet"]
    assert main(command) == 130
    text = (home / "pool.jsonl").read_text()
    (home / "pool.jsonl").write_text(text.replace("xxx", "yyy"))
    capsys.readouterr()
    assert main(command) == 2
    assert "input.digest" in (told := capsys.readouterr().err) and "--restart" in told
    assert main([*command, "--restart"]) == 0
    rows = toy_runs.rows(home / "pool.judged.jsonl")
    assert not any("xxx" in text for row in rows for text in row["responses"])


def test_judged_rows_are_not_written_over_themselves(
    home: Path, by_length: None, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pool(home / "pool.judged.jsonl", 3, 5)
    before = (home / "pool.judged.jsonl").read_bytes()
    command = ["bon", "pool.judged.jsonl", "--judge", "judge.yaml", "--restart"]
    assert main(command) == 2
    assert says(capsys.readouterr().err, "pool.judged.jsonl overwritten --out")
    assert (home / "pool.judged.jsonl").read_bytes() == before


def test_comparisons_are_of_those_who_compete(home: Path, by_length: None) -> None:
    of_all = {"comparisons": [[0, 4, 0.5]], "ranking": [4, 3, 2, 1, 0], "best": 4}
    lengths = write_pool(home / "pool.jsonl", 5, 5, **of_all)
    bon("pool.jsonl", "--judge", "judge.yaml", "-n", "3", "--method", "round_robin")
    for row, of in zip(toy_runs.rows(home / "pool.judged.jsonl"), lengths, strict=True):
        assert {(i, j) for i, j, _ in row["comparisons"]} == {(0, 1), (0, 2), (1, 2)}
        assert all(chance == float(of[i] > of[j]) for i, j, chance in row["comparisons"])
        assert row["ranking"] is row["best"] is None
    assert main(["replay", "--quiet", "pool.judged.jsonl", "--tournament", "round_robin"]) == 0


def test_drawing_sets_one_more_aside(home: Path, by_length: None) -> None:
    toy_runs.settings(home)
    toy_runs.write_prompts(home / "pool.jsonl", 5)
    draw = ("--policy", "policy", "--max-new-tokens", "9", "--inline", "-n", "4")
    found = bon("pool.jsonl", *draw, "--judge", "judge.yaml")
    assert [len(row["responses"]) for row in toy_runs.rows(home / "pool.pool.jsonl")] == [5] * 5
    assert [len(row["responses"]) for row in toy_runs.rows(home / "pool.judged.jsonl")] == [4] * 5
    assert [row["n"] for row in found["curve"]] == [1, 4]


def test_too_few_responses_and_two_measures(
    home: Path, by_length: None, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pool(home / "pool.jsonl", 2, 4)
    for arguments, message in (
        (("-n", "4"), "pool.jsonl:1: has 4 responses where 5 are needed"),
        (("--method", "duel"), "duel"),
        (("--gold", "judge.yaml"), "a second judge"),
    ):
        assert main(["bon", "pool.jsonl", "--judge", "judge.yaml", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1 and message in captured.err


@pytest.mark.slow
def test_a_real_judge(home: Path) -> None:
    from rewards.judges.load import load_judge

    model = tiny.checkpoint(home / "judge")
    texts = ["tea", "coffee, black", "water", "no"]
    (home / "pool.jsonl").write_text(json.dumps({"prompt": "drink?", "responses": texts}) + "\n")
    bon("pool.jsonl", "--judge", model)
    (row,) = toy_runs.rows(home / "pool.judged.jsonl")
    judge = load_judge(model, kind="pairwise")
    turns = [Message(role="user", content="drink?")]
    expected = judge.compare([Comparison(turns, text, "no") for text in texts[:3]])
    assert row["win_scores"] == pytest.approx(expected.tolist(), abs=1e-5)
