"""`raft rank`: rankings that agree with the judge asked pair by pair, and a report that adds up."""

from __future__ import annotations

import importlib
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_runs
from toy_runs import write_rows
from wording import refusal, says

import rewards.scoring.rank
from raft.cli.main import main
from rewards.scoring.rank import Tournament, rank_file
from rewards.scoring.reading import Reading
from rewards.spec import PairwiseSpec
from rewards.spec_reader import read_reward
from rewards.tournament import METHODS, cost
from rewards.tournament.verdicts import Verdicts
from rewards.types import Comparison, RewardError
from rollout.types import InputError

tiny: Any = importlib.import_module("tiny_judges")

CHARS = "{kind: function, function: length, arguments: {unit: chars}}"


def rank(*arguments: str | Path) -> int:
    return main(["rank", "--quiet", *map(str, arguments)])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    return refusal(capsys, "rank", "--quiet", *arguments)


class ByLength:
    """Prefers the longer text, and whatever it is shown first; counts what it is asked."""

    def __init__(self, bias: float = 0.5) -> None:
        self.bias = bias
        self.asked: list[tuple[str, str]] = []

    def compare(self, comparisons: Any) -> np.ndarray:
        return self.verdicts(comparisons).probability_N

    def verdicts(self, comparisons: Any, names: Any = None) -> Verdicts:
        self.asked += [(one.first, one.second) for one in comparisons]
        gaps = np.array([len(one.first) - len(one.second) for one in comparisons], dtype=float)
        return Verdicts.from_log_odds(self.bias + gaps, self.bias - gaps)


@pytest.fixture
def by_length(monkeypatch: pytest.MonkeyPatch) -> ByLength:
    judge = ByLength()
    monkeypatch.setattr(rewards.scoring.rank, "build_judge", lambda spec: judge)
    monkeypatch.setattr(Reading, "check", lambda reading, row: None)  # a judge without files
    return judge


JUDGE = PairwiseSpec(model="stand-in")


def ranked(file: Path, **settings: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    summary = rank_file(str(file), judge=JUDGE, tournament=Tournament(**settings), restart=True)
    return toy_runs.rows(file.with_name("rows.ranked.jsonl")), summary


def numbered(root: Path, count: int = 12, k: int = 5) -> Path:
    rows = [
        {"prompt": f"q{n}", "responses": ["x" * (1 + (7 * j + n) % 11) for j in range(k)], "n": n}
        for n in range(count)
    ]
    return write_rows(root / "rows.jsonl", rows)


def test_by_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"prompt": "q", "responses": ["bb", "a", "ccc", "dd"], "n": 1},
        {"prompt": "p", "responses": [""]},
    ]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    assert main(["rank", "--reward", CHARS, str(file), "--json"]) == 0
    captured = capsys.readouterr()
    assert "ranked by score, no tournament" in captured.err
    summary = json.loads(captured.out)
    assert summary["comparisons"] == 0 and summary["forward_passes"] == 5
    first, second = toy_runs.rows(tmp_path / "rows.ranked.jsonl")
    assert list(first) == [*rows[0], "ranking", "best", "ranking_scores", "tournament"]
    assert first["ranking"] == [2, 0, 3, 1] and first["best"] == 2
    assert first["ranking_scores"] == [2.0, 1.0, 3.0, 2.0]
    assert first["tournament"]["method"] == "by_score"
    assert second["ranking"] == [0] and second["best"] == 0


def test_missing_scores(tmp_path: Path) -> None:
    # a response without a score has no place; a prompt without any has no ranking
    body = "return [None if 'a' in c else float(len(c)) for c in completions]"
    reward = toy_runs.reward_file(tmp_path, body)
    rows = [{"prompt": "q", "responses": ["bb", "a", "ccc"]}, {"prompt": "p", "responses": ["a"]}]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    spec = read_reward(reward, "reward")
    summary = rank_file(str(file), reward=spec)
    first, second = toy_runs.rows(tmp_path / "rows.ranked.jsonl")
    assert first["ranking"] == [2, 0] and first["ranking_scores"] == [2.0, None, 3.0]
    assert second["ranking"] == [] and second["best"] is None
    assert summary["missing"] == 1
    # in a tournament its comparisons are missing, and with them the standing
    summary = rank_file(str(file), reward=spec, tournament=Tournament("knockout"), restart=True)
    first, second = toy_runs.rows(tmp_path / "rows.ranked.jsonl")
    assert first["ranking"] == [] and first["ranking_scores"] == [None] * 3
    assert second["ranking"] == [0] and summary["missing"] == 1


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_best(tmp_path: Path, by_length: ByLength, method: str) -> None:
    found, summary = ranked(numbered(tmp_path), method=method)
    for row in found:
        lengths = [len(text) for text in row["responses"]]
        assert row["best"] == row["ranking"][0] == int(np.argmax(lengths))
        assert sorted(row["ranking"]) == list(range(5))
        told = row["tournament"]
        assert told["method"] == method and told["comparisons"] == cost(method, 5)
        by_place = [row["ranking_scores"][k] for k in row["ranking"]]
        assert by_place == sorted(by_place, reverse=True)
    assert summary["comparisons"] == 12 * cost(method, 5) == len(by_length.asked)
    assert summary["forward_passes"] == 2 * summary["comparisons"]
    assert summary["intransitive"] == 0 and summary["missing"] == 0


def test_the_report_adds_up(tmp_path: Path, by_length: ByLength) -> None:
    file = numbered(tmp_path)
    found, summary = ranked(file, score="mean_probability")
    gaps, triples = [], 0
    for row in found:
        texts, triples = row["responses"], triples + 10
        wins = np.zeros(5)
        for i, j in combinations(range(5), 2):
            one = ByLength().verdicts([Comparison([], texts[i], texts[j])])
            wins[i] += float(one.probability_N[0])
            wins[j] += 1 - float(one.probability_N[0])
            gaps.append(float(one.gap_N[0]))
        np.testing.assert_allclose(row["ranking_scores"], wins / 4, atol=1e-8)
    assert summary["position_bias"] == pytest.approx(np.mean(gaps))
    assert summary["triples"] == triples
    # a wide tie makes ties of what is near a half
    _, tied = ranked(file, tie=0.49)
    assert tied["ties"] > summary["ties"] == 0


def test_equal_responses_are_one_entrant(tmp_path: Path, by_length: ByLength) -> None:
    rows = [
        {"prompt": "q", "responses": ["a", "bb", "a", "bb", "a"]},
        {"prompt": "p", "responses": ["a", "a"]},
    ]
    found, _ = ranked(write_rows(tmp_path / "rows.jsonl", rows))
    assert found[0]["ranking"] == [1, 3, 0, 2, 4]
    assert found[0]["ranking_scores"] == [0.0, 1.0, 0.0, 1.0, 0.0]
    assert len(by_length.asked) == 1
    assert found[1]["ranking"] == [0, 1]


def test_a_reward_may_hold_a_tournament(tmp_path: Path) -> None:
    file = numbered(tmp_path)
    assert rank("--reward", CHARS, file, "--method", "swiss", "--score", "bradley_terry") == 0
    for row in toy_runs.rows(tmp_path / "rows.ranked.jsonl"):
        assert row["best"] == int(np.argmax([len(text) for text in row["responses"]]))
        assert row["tournament"]["method"] == "swiss" and row["tournament"]["gap_sum"] == 0


def test_seed_and_chunks(tmp_path: Path, by_length: ByLength) -> None:
    # what is drawn for a prompt depends on the seed and its id, not on its neighbours
    file = numbered(tmp_path)
    by_length.bias = 0.0
    drawn = {}
    for seed, batch in ((0, None), (0, 1), (1, None)):
        by_length.asked.clear()
        settings = Tournament("knockout", seed=seed)
        rank_file(str(file), judge=JUDGE, tournament=settings, batch_rows=batch, restart=True)
        drawn[seed, batch] = sorted(by_length.asked)
    assert drawn[0, None] == drawn[0, 1] != drawn[1, None]


def test_going_on(tmp_path: Path, by_length: ByLength, capsys: pytest.CaptureFixture[str]) -> None:
    # the report is that of all rows, whichever command ranked them
    file, out = numbered(tmp_path), tmp_path / "rows.ranked.jsonl"
    settings: dict[str, Any] = {"judge": JUDGE, "batch_rows": 2}
    straight = rank_file(str(file), **settings)
    rows = out.read_bytes()
    out.unlink()
    whole, calls = ByLength.verdicts, []

    def verdicts(self: ByLength, comparisons: Any, names: Any = None) -> Verdicts:
        calls.append(names)
        if len(calls) == 4:
            raise RewardError(f"no verdict on {names[3]}")
        return whole(self, comparisons)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ByLength, "verdicts", verdicts)
        with pytest.raises(RewardError, match=r"rows.jsonl:7: no verdict on .*'rows-000007'"):
            rank_file(str(file), **settings)
    asked = len(by_length.asked)
    summary = rank_file(str(file), **settings)
    assert out.read_bytes() == rows and summary["new_conversations"] == 30
    assert len(by_length.asked) - asked == 6 * 10
    timing = ("new_conversations", "seconds", "conversations_per_second")
    assert {k: v for k, v in summary.items() if k not in timing} == {
        k: v for k, v in straight.items() if k not in timing
    }
    with pytest.raises(InputError, match=r"tournament.seed 0 → 1"):
        rank_file(str(file), tournament=Tournament(seed=1), **settings)


def test_by_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rewards.judges.load import load_judge

    model = tiny.checkpoint(tmp_path / "judge")
    rows = [
        {"id": "a", "prompt": "What is two and two?", "responses": ["four", "five", "no idea"]},
        {"id": "b", "prompt": tiny_turns(), "responses": ["yes", "no"]},
    ]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    assert main(["rank", "--judge", str(model), "--device", "cpu", str(file), "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert "round_robin: 4 comparisons, 8 forward passes" in captured.err
    judge = load_judge(model, kind="pairwise", device="cpu")
    found = toy_runs.rows(tmp_path / "rows.ranked.jsonl")
    gaps = []
    for row in found:
        turns: Any = row["prompt"]
        if isinstance(turns, str):
            turns = [{"role": "user", "content": turns}]
        texts, k = row["responses"], len(row["responses"])
        wins = np.zeros(k)
        for i, j in combinations(range(k), 2):
            verdict = judge.verdicts([Comparison(turns, texts[i], texts[j])])
            winner = i if verdict.probability_N[0] > 0.5 else j
            wins[winner] += 1 / (k - 1)
            gaps.append(float(verdict.gap_N[0]))
        np.testing.assert_allclose(row["ranking_scores"], wins, atol=1e-8)
        assert row["best"] == int(np.argmax(wins))
    assert summary["position_bias"] == pytest.approx(np.mean(gaps), abs=1e-5)
    # the tournament of a reward section is the judge's here
    section = tmp_path / "judge.yaml"
    section.write_text(f"reward: {{kind: pairwise, model: {model}, tournament: knockout}}\n")
    assert rank("--judge", section, file, "--out", tmp_path / "knockout.jsonl") == 0
    assert toy_runs.rows(tmp_path / "knockout.jsonl")[0]["tournament"]["comparisons"] == 2


def tiny_turns() -> list[Any]:
    return [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "are you well?"},
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--reward", CHARS, "--tie", "0.1"], "a reward ranks by its scores, without a tournament"),
        (["--reward", CHARS, "--method", "cup"], "--method: invalid choice: 'cup'"),
        (["--reward", CHARS, "--method", "knockout", "--score", "points"], "knockout has no"),
        (["--reward", CHARS, "--method", "swiss", "--tie", "0.5"], "--tie 0.5: must lie in"),
        (["--reward", CHARS, "--method", "knockout", "--budget", "3"], ":1: knockout of 5 "),
        (["--judge", "function:length"], "judge kind 'function' is unknown"),
        (["--judge", "./nowhere"], "--judge: no such folder ./nowhere"),
        (["--judge", "{kind: remote}"], "needs url"),
    ],
)  # fmt: skip
def test_bad_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert says(refused(capsys, *arguments, numbered(tmp_path)), expected)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "q"}, "no column 'responses'"),
        ({"prompt": "q", "responses": []}, "'responses' is empty"),
        ({"prompt": "q", "responses": ["a"], "best": 0}, "has a column 'best' already"),
    ],
)
def test_bad_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: Any, expected: str
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"prompt": "q", "responses": ["a"]}, row])
    message = refused(capsys, "--reward", CHARS, file)
    assert message.startswith(f"{file}:2: ") and says(message, expected)


def test_a_judge_and_a_reward_exclude_each_other(tmp_path: Path) -> None:
    for arguments in ([], ["--judge", "a", "--reward", "b"]):
        assert rank(numbered(tmp_path), *arguments) == 2


def test_what_was_asked_is_kept_for_a_replay(tmp_path, capsys):
    rows = [
        {"id": f"p{n}", "prompt": "p", "responses": ["a" * (1 + (n * k) % 7) for k in range(5)]}
        for n in range(1, 7)
    ]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    league = tmp_path / "league.jsonl"
    assert rank("--reward", CHARS, "--method", "round_robin", file, "--out", league) == 0
    assert (
        rank("--reward", CHARS, "--method", "knockout", file, "--out", tmp_path / "ko.jsonl") == 0
    )
    for row in toy_runs.rows(league):
        texts = list(dict.fromkeys(row["responses"]))
        assert len(row["comparisons"]) == len(texts) * (len(texts) - 1) / 2
        for i, j, chance in row["comparisons"]:
            longer = len(row["responses"][i]) - len(row["responses"][j])
            assert (chance > 0.5) == (longer > 0)
    # the knockout comes out again from the league's comparisons
    capsys.readouterr()
    line = ["replay", "--quiet", str(league), "--tournament", "knockout", "--k", "5", "--json"]
    assert main(line) == 0
    (found,) = json.loads(capsys.readouterr().out)["results"]
    best = [row["responses"][row["best"]] for row in toy_runs.rows(tmp_path / "ko.jsonl")]
    assert found["missing"]["prompts"] == 0
    assert found["values"]["chars"]["mean"] == pytest.approx(sum(map(len, best)) / len(best))
