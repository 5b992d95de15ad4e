"""Runs whose reward is a pairwise judge: a tournament selects, a win rate is the curve."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_runs

from raft.cli.main import main
from raft.evaluation import by_judge, compare, judge_metrics, with_references
from raft.loop import run
from rewards.judges.reward import REFERENCE_FIELD
from rewards.spec import FunctionSpec, PairwiseSpec
from rewards.tournament import Report
from rewards.tournament.verdicts import Verdicts
from rollout.data.samples import SampleRow
from rollout.types import InputError, Prompt


class WordJudge:
    """Prefers the response with more good and fewer bad words, and a little the one shown first."""

    def verdicts(self, comparisons: Any, names: Any = None) -> Verdicts:
        margin_N = np.array([_words(one.first) - _words(one.second) for one in comparisons])
        return Verdicts.from_log_odds(margin_N + 0.2, -margin_N + 0.2)


def _words(text: str) -> float:
    return float(text.split().count("good") - text.split().count("bad"))


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """`kind: pairwise` builds a judge that needs no model."""

    monkeypatch.setattr("rewards.judges.load.load_judge", lambda model, kind: WordJudge())
    monkeypatch.setattr("rewards.spec.check_model", lambda *_, **__: None)
    monkeypatch.setattr("raft.runs.check.check_model", lambda *_, **__: None)


def pairwise(root: Path, **changes: Any) -> Path:
    settings = toy_runs.settings(root, **changes)
    settings["reward"] = {"kind": "pairwise", "model": "a-judge", **changes.get("reward", {})}
    from raft.config.load import make_config

    return run(make_config(settings))


@pytest.mark.slow
def test_winners_are_kept_and_the_win_rate_is_the_curve(tmp_path: Path, judged: None) -> None:
    folder = pairwise(tmp_path, eval={"prompts": 30})
    evals = [row for row in toy_runs.metrics(folder) if row["phase"] == "eval"]
    # the starting policy ties with itself, and every later one is compared with it
    assert evals[0]["eval/win_rate"] == 0.5 and evals[0]["eval/reward_mean"] == 0.5
    assert evals[-1]["eval/win_rate"] - evals[-1]["eval/win_rate_ci95"] > 0.5
    assert evals[-1]["eval/win_rate"] == pytest.approx(evals[-1]["eval/reward_mean"])
    assert 0 < evals[-1]["eval/win_rate_ci95"] < 0.5
    assert evals[-1]["eval/judge_comparisons"] == 30 * 2  # held-out prompts x eval.k
    for number in (1, 2, 3):
        home = folder / "iterations" / f"{number:03d}"
        by_id = {row["id"]: row for row in toy_runs.rows(home / "rollouts.jsonl")}
        for row in toy_runs.rows(home / "selected.jsonl"):
            drawn = [_words(text) for text in by_id[row["id"]]["responses"]]
            # without noise a knockout finds the best
            assert _words(row["response"]) == max(drawn)
    train = [row for row in toy_runs.metrics(folder) if row["phase"] == "train"]
    assert all(row["rollout/judge_comparisons"] <= 12 * 3 for row in train)
    # points of tournaments are no reward, and no line of the curves
    assert not any("rollout/reward_mean" in row or "rollout/best_of_k" in row for row in train)
    # σ(m + .2) − σ(m − .2): biased to the front, at most by what it is at m = 0
    largest = 2 / (1 + math.exp(-0.2)) - 1
    assert all(0 < row["rollout/judge_position_bias"] <= largest + 1e-9 for row in train)


def test_a_batch_drawn_ahead_has_the_figures_of_its_own_drawing(
    tmp_path: Path, judged: None
) -> None:
    folder = pairwise(tmp_path, iterations=3, overlap=1)
    train = [row for row in toy_runs.metrics(folder) if row["phase"] == "train"]
    for number, row in enumerate(train, 1):
        drawn = toy_runs.rows(folder / "iterations" / f"{number:03d}" / "rollouts.jsonl")
        spent = sum(len(one["comparisons"]) for one in drawn)
        assert row["rollout/judge_comparisons"] == spent > 0
        assert row["rollout/reused"] == 0 and row["rollout/tokens_per_second"] > 0


def test_held_out_scores_are_probabilities_against_the_start(tmp_path: Path, judged: None) -> None:
    folder = pairwise(tmp_path, iterations=1)
    start = toy_runs.rows(folder / "iterations" / "000" / "eval.jsonl")
    after = toy_runs.rows(folder / "iterations" / "001" / "eval.jsonl")
    for old, new in zip(start, after, strict=True):
        pairs = zip(new["responses"], old["responses"], strict=True)
        margins = [_words(mine) - _words(theirs) for mine, theirs in pairs]
        expected = Verdicts.from_log_odds(np.array(margins) + 0.2, 0.2 - np.array(margins))
        assert new["scores"] == pytest.approx(expected.probability_N.tolist())
    assert REFERENCE_FIELD not in after[0]  # what it was compared with is stored once


@pytest.mark.slow
@pytest.mark.parametrize("tournament", ["knockout", "round_robin"])
def test_what_was_compared_is_stored_and_replayed(
    tmp_path: Path, judged: None, capsys: pytest.CaptureFixture[str], tournament: str
) -> None:
    folder = pairwise(tmp_path, iterations=2, reward={"tournament": tournament})
    rows = toy_runs.rows(folder / "iterations" / "001" / "rollouts.jsonl")
    for row in rows:
        for i, j, chance in row["comparisons"]:
            margin = _words(row["responses"][i]) - _words(row["responses"][j])
            verdict = Verdicts.from_log_odds(np.array([margin + 0.2]), np.array([0.2 - margin]))
            assert chance == pytest.approx(verdict.probability_N.item())
    [spent, _] = [row for row in toy_runs.metrics(folder) if row["phase"] == "train"]
    assert sum(len(row["comparisons"]) for row in rows) == spent["rollout/judge_comparisons"]
    # held-out responses meet a reference, which is no comparison among them
    assert "comparisons" not in toy_runs.rows(folder / "iterations" / "001" / "eval.jsonl")[0]
    capsys.readouterr()
    k = str(len(rows[0]["responses"]))
    options = ["--tournament", tournament, "--k", k, "--json"]
    assert main(["replay", "--quiet", str(folder), *options]) == 0
    report = json.loads(capsys.readouterr().out)
    [found] = [row for row in report["results"] if row["rule"] == tournament]
    assert found["missing"]["comparisons"] == 0 and found["missing"]["of_comparisons"] > 0


@pytest.mark.slow
def test_a_judge_may_be_the_gold_reward_alone(tmp_path: Path, judged: None) -> None:
    gold = {"kind": "pairwise", "model": "a-judge", "tournament": "round_robin"}
    folder = run(toy_runs.config(tmp_path, gold=gold, eval={"prompts": 30}))
    rows = [row for row in toy_runs.metrics(folder) if row["phase"] == "eval"]
    assert rows[0]["eval/gold_win_rate"] == 0.5
    assert rows[-1]["eval/gold_win_rate"] - rows[-1]["eval/gold_win_rate_ci95"] > 0.5
    assert rows[-1]["eval/gold_judge_comparisons"] == 60
    # the reward itself stays a count of words
    assert rows[0]["eval/reward_mean"] != 0.5 != rows[-1]["eval/reward_mean"]


def test_a_judge_in_a_combination_gives_a_share_of_wins(tmp_path: Path, judged: None) -> None:
    members = [
        {"kind": "pairwise", "model": "a-judge"},
        {"kind": "function", "function": "length"},
    ]
    settings = toy_runs.settings(tmp_path, iterations=1)
    settings["reward"] = {"kind": "combine", "members": members}
    from raft.config.load import make_config

    folder = run(make_config(settings))
    rows = [row for row in toy_runs.metrics(folder) if row["phase"] == "eval"]
    assert rows[0]["eval/win_rate"] == 0.5 and 0 <= rows[1]["eval/win_rate"] <= 1
    assert "comparisons" in toy_runs.rows(folder / "iterations" / "001" / "rollouts.jsonl")[0]
    # sums of points and lengths are no probabilities
    assert rows[1]["eval/reward_mean"] > 1
    assert rows[1]["eval/judge_comparisons"] == 20


def test_a_judge_needs_two_samples(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sampling\.k must be 2 or more"):
        pairwise(tmp_path, sampling={"k": 1})


def test_parts() -> None:
    judge = PairwiseSpec(model="m")
    function = FunctionSpec(function="length")
    assert by_judge(judge, None) == ("scores",)
    assert by_judge(function, judge) == ("gold_scores",)
    assert by_judge(function, None) == ()
    prompts = [Prompt("a", "x", {"answer": 1}), Prompt("b", "y")]
    (first, second) = with_references(
        prompts, [SampleRow("b", None, ["s"]), SampleRow("a", None, ["r"])]
    )
    assert first.fields == {"answer": 1, REFERENCE_FIELD: ["r"]}
    assert second.fields == {REFERENCE_FIELD: ["s"]}
    assert with_references(prompts, None)[0].fields[REFERENCE_FIELD] is None
    # shares of nothing are left out
    assert judge_metrics({"reward": Report()}, "eval") == {"eval/judge_comparisons": 0}
    row = SampleRow("a", None, ["x", "y", "z"], {"scores": [1.0, 0.5, None]})
    assert compare([row], [row], ["scores"])["eval/win_rate"] == 0.75
