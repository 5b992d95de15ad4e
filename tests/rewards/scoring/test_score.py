"""`raft score`: every form of row, and whatever a user gets wrong."""

from __future__ import annotations

import datetime
import gzip
import importlib
import json
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import toy_runs
from score_files import hidden, numbered, refused, reward_file, score
from toy_runs import write_rows
from wording import says

from raft.cli.main import main
from rewards.build import Place
from rewards.scoring.score import score_file
from rewards.spec_reader import read_reward
from rewards.types import RewardError
from rollout.data.messages import parse_hh
from rollout.types import Group

tiny: Any = importlib.import_module("tiny_rewards")

ASKED = [{"role": "user", "content": "who?"}]
ANSWER = {"role": "assistant", "content": "me"}


def scored(file: Path, *arguments: str | Path) -> list[dict[str, Any]]:
    """The rows that scoring by length in characters leaves in the default place."""
    arguments = arguments or ("--reward", "{kind: function, function: length}")
    assert score(*arguments, "--set", "arguments.unit=chars", file) == 0
    return toy_runs.rows(file.with_name(f"{file.name.split('.')[0]}.scored.jsonl"))


FORMS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"prompt": "q", "responses": ["a", "bbb"]}, {"scores": [1.0, 3.0]}),
    ({"prompt": ASKED, "responses": ["a", ""]}, {"scores": [1.0, 0.0]}),
    ({"prompt": "q", "responses": []}, {"scores": []}),
    ({"prompt": "q", "response": "four"}, {"score": 4.0}),
    ({"messages": [*ASKED, ANSWER]}, {"score": 2.0}),
    (
        {"prompt": "q", "chosen": "four", "rejected": "no"},
        {"chosen_score": 4.0, "rejected_score": 2.0},
    ),
    (
        {"chosen": [*ASKED, ANSWER], "rejected": [{"role": "user", "content": "?"}, ANSWER]},
        {"chosen_score": 2.0, "rejected_score": 2.0},
    ),
    (
        {"prompt": "who?", "chosen": [*ASKED, ANSWER], "rejected": [ANSWER]},
        {"chosen_score": 2.0, "rejected_score": 2.0},
    ),
    (
        {"chosen": "\n\nHuman: a\n\nAssistant: bcd ", "rejected": "\n\nHuman: a\n\nAssistant: "},
        {"chosen_score": 3.0, "rejected_score": 0.0},
    ),
    (
        {"prompt": "\n\nHuman: a\n\nAssistant:", "chosen": " bcd", "rejected": " e\n"},
        {"chosen_score": 3.0, "rejected_score": 1.0},
    ),
]  # fmt: skip


def test_every_form_by_a_function(tmp_path: Path) -> None:
    # all other columns, their order and the rows' order are kept; no id is made up
    rows = [{**row, "n": {"at": at}, "note": None} for at, (row, _) in enumerate(FORMS)]
    found = scored(write_rows(tmp_path / "rows.jsonl", rows))
    assert found == [{**row, **added} for row, (_, added) in zip(rows, FORMS, strict=True)]
    assert [list(row)[:-1] for row in found[:1]] == [list(rows[0])]


def conversations(row: dict[str, Any]) -> list[Any]:
    """What a row holds, written out by hand."""
    asked: Any = row.get("prompt")
    turns: Any = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    if "messages" in row:
        return [row["messages"]]
    if "prompt" in row and "chosen" not in row:
        texts = row.get("responses", [row.get("response")])
        return [[*turns, {"role": "assistant", "content": text}] for text in texts]
    sides = []
    for side in (row["chosen"], row["rejected"]):
        if isinstance(side, str) and side.startswith("\n\nHuman:"):
            sides.append(parse_hh(side, "", ""))
        elif isinstance(side, str) and str(asked).startswith("\n\nHuman:"):
            sides.append(parse_hh(asked + side, "", ""))
        elif isinstance(side, str):
            sides.append([*turns, {"role": "assistant", "content": side}])
        else:
            sides.append(side if len(side) > 1 else [*turns, *side])
    return sides


def flat(rows: list[dict[str, Any]]) -> list[float]:
    keys = ("scores", "score", "chosen_score", "rejected_score")
    values = [row[key] for row in rows for key in keys if key in row]
    return [one for value in values for one in (value if isinstance(value, list) else [value])]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("reward") / "model", "llama")


@pytest.mark.parametrize("form", ["chat", "hh"])
def test_every_form_by_a_model(tmp_path: Path, model: Path, form: str) -> None:
    from rewards import load_reward

    rows = [row for row, _ in FORMS]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    options = ("--reward", model, "--format", form, "--device", "cpu", "--batch-rows", "3")
    assert score(*options, file) == 0
    expected = load_reward(model, format=form, device="cpu").score(  # type: ignore[arg-type]
        [one for row in rows for one in conversations(row)]
    )
    found = flat(toy_runs.rows(tmp_path / "rows.scored.jsonl"))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_real_preferences(tmp_path: Path, model: Path, raft_data: Path) -> None:
    from rewards import load_reward

    source = raft_data / "data/hh-rlhf/dev/harmless-base.jsonl.gz"
    with gzip.open(source, "rt") as stream:
        rows = [json.loads(next(stream)) for _ in range(50)]
    file = write_rows(tmp_path / "hh.jsonl", rows)
    assert score("--reward", model, "--format", "hh", "--max-length", "100", file) == 0
    found = toy_runs.rows(tmp_path / "hh.scored.jsonl")
    kept = [{key: row[key] for key in ("chosen", "rejected")} for row in found]
    assert kept == rows
    dialogues = [parse_hh(row[side], "", "") for row in rows for side in ("chosen", "rejected")]
    expected = load_reward(model, format="hh", max_length=100).score(dialogues)
    np.testing.assert_allclose(flat(found), expected, atol=1e-5)


def test_gz_parquet_and_json(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"id": k, "prompt": ASKED, "responses": ["a" * k, "b"]} for k in range(5)]
    expected = [{**row, "scores": [float(row["id"]), 1.0]} for row in rows]
    with gzip.open(tmp_path / "zipped.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "listed.json").write_text(json.dumps(rows))
    assert scored(tmp_path / "zipped.jsonl.gz") == expected
    assert scored(tmp_path / "listed.json") == expected
    # columns that JSON has no form for
    day = datetime.date(2024, 5, 17)
    odd = [{**row, "day": day, "share": float("nan")} for row in rows]
    pq.write_table(pa.Table.from_pylist(odd), tmp_path / "table.parquet")
    plain = {"day": "2024-05-17", "share": None}
    assert scored(tmp_path / "table.parquet") == [{**row, **plain} for row in expected]
    pq.write_table(pa.Table.from_pylist([{**rows[0], "raw": b"\x00"}]), tmp_path / "raw.parquet")
    assert score("--reward", "function:length", tmp_path / "raw.parquet") == 2


def test_stdout_and_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"prompt": "q", "responses": ["a b", "c"]}])
    assert score("--reward", "function:length", file, "--out", "-") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["scores"] == [2.0, 1.0] and captured.err == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]
    assert main(["score", "--reward", "function:length", str(file), "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert summary["rows"] == 1 and summary["conversations"] == 2
    assert summary["mean"] == 1.5 and summary["std"] == 0.5 and summary["missing"] == 0
    assert "1 rows, 2 conversations | score 1.5, std 0.5 | 2 of them now" in captured.err
    # what is complete is said again, and nothing is scored
    assert main(["score", "--reward", "function:length", str(file), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == summary and "is complete already" in captured.err
    message = refused(capsys, "--reward", "function:length", file, "--json", "--out", "-")
    assert message.startswith("--json:")


def test_missing_scores_are_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = "return [None if c == 'a' else float('nan') if c == 'b' else 1.0 for c in completions]"
    reward = reward_file(tmp_path, body)
    lines = [{"prompt": "q", "responses": ["a", "c"]}, {"prompt": "q", "responses": ["c", "b"]}]
    file = write_rows(tmp_path / "rows.jsonl", lines)
    message = refused(capsys, "--reward", reward, file, "--batch-rows", "1")
    assert message.startswith(f"{file}:2: reward function") and "'rows-000002'" in message
    # the first row is kept, and goes on under another way to take failures
    assert len((tmp_path / ".rows.scored.jsonl.partial").read_text().splitlines()) == 1
    assert score("--reward", reward, file, "--batch-rows", "1", "--missing", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["missing"] == 2 and summary["mean"] == 1.0 and summary["new_conversations"] == 2
    found = toy_runs.rows(tmp_path / "rows.scored.jsonl")
    assert [row["scores"] for row in found] == [[None, 1.0], [1.0, None]]


def test_columns_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # a run's rows have scores; another reward's go beside them, or over them when it is said
    row = {"id": "a", "prompt": "q", "responses": ["x", "yy"], "scores": [1.0, 2.0],
           "token_ids": [[1, 2], [3]], "finish_reasons": ["length", "stop"]}  # fmt: skip
    file = write_rows(tmp_path / "rows.jsonl", [row])
    reward = ("--reward", "function:length", "--set", "arguments.unit=tokens")
    assert refused(capsys, *reward, file).startswith(f"{file}:1: has a column 'scores' already")
    assert score(*reward, file, "--output-column", "gold") == 0
    (found,) = toy_runs.rows(tmp_path / "rows.scored.jsonl")
    assert found == {**row, "gold_scores": [2.0, 1.0]}
    assert score(*reward, file, "--replace", "--out", tmp_path / "over.jsonl") == 0
    (found,) = toy_runs.rows(tmp_path / "over.jsonl")
    assert found == {**row, "scores": [2.0, 1.0]}
    # without ids every response would be 0 tokens long
    write_rows(file, [{"prompt": "q", "response": "x"}])
    assert refused(capsys, *reward, file).startswith(f"{file}:1: has no token_ids")


def test_rewards_out_of_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"prompt": "q", "response": "a b"}])
    section = "{kind: function, function: length, arguments: {unit: '${UNIT}'}}"
    (tmp_path / "run.yaml").write_text(f"run_dir: x\nreward: {section}\n")
    (tmp_path / "bare.yaml").write_text(section)
    monkeypatch.setenv("UNIT", "words")
    ten = "{kind: function, function: length, weight: 10}"
    both = f"{{kind: combine, members: [{section}, {ten}]}}"
    for reward, expected in (
        (tmp_path / "run.yaml", 2.0), (tmp_path / "bare.yaml", 2.0), (section, 2.0), (both, 22.0),
    ):  # fmt: skip
        assert score("--reward", reward, file, "--restart") == 0
        assert toy_runs.rows(tmp_path / "rows.scored.jsonl")[0]["score"] == expected


BAD_ROWS: list[tuple[Any, str]] = [
    ([1], "holds a list where an object is expected"),
    ({"text": "a"}, "no response is among the columns text"),
    ({}, "no response is among the columns (none)"),
    ({"prompt": "", "response": "a"}, "'prompt' is empty"),
    ({"prompt": 3, "response": "a"}, "'prompt' is a number"),
    ({"prompt": "q", "response": None}, "response is null"),
    ({"prompt": "q", "responses": "a"}, "'responses' is a string"),
    ({"prompt": "q", "responses": ["a", 2]}, "responses[1] is a number"),
    ({"prompt": "q", "responses": ["a", "\ud800"]}, "half of a surrogate pair"),
    ({"prompt": "q", "responses": ["a"], "token_ids": []}, "'token_ids' does not fit 1 responses"),
    ({"prompt": "q", "responses": ["a"], "messages": [ANSWER]}, "can be read as responses and as"),
    ({"messages": "a"}, "'messages' is a string"),
    ({"messages": ASKED}, "'messages' ends with a message of the user"),
    ({"messages": [{"role": "tool", "content": ""}]}, "ends with a message of the tool"),
    ({"messages": []}, "'messages' is empty"),
    ({"chosen": "good", "rejected": "bad"}, "'chosen' is a text prompt"),
    ({"chosen": None, "rejected": "bad"}, "'chosen' is null and no dialogue"),
    ({"prompt": "q", "chosen": "a", "rejected": 1}, "'rejected' is a number"),
    ({"prompt": "else", "chosen": [*ASKED, ANSWER], "rejected": [ANSWER]}, "does not begin with"),
    ({"chosen": ASKED, "rejected": ASKED}, "'chosen' ends with a message of the user"),
    ({"id": [], "prompt": "q", "response": "a"}, "id is a list"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "expected"), BAD_ROWS, ids=lambda value: str(value)[:40])
def test_bad_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: Any, expected: str
) -> None:
    # found before anything is scored, and nothing is left behind
    good = {"prompt": "q", "response": "fine"}
    file = write_rows(tmp_path / "rows.jsonl", [good, good, row, good])
    message = refused(capsys, "--reward", reward_file(tmp_path), file, "--batch-rows", "1")
    assert message.startswith(f"{file}:3: ") and says(message, expected)
    assert not list(tmp_path.glob("*.log")) and hidden(tmp_path) == []


def test_other_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reward = ("--reward", "function:length")
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "q", "response": "a"}\n{"prompt"\n')
    assert refused(capsys, *reward, file).startswith(f"{file}:2: not valid JSON")
    write_rows(file, [])
    assert refused(capsys, *reward, file).startswith(f"{file}: holds no rows")
    assert says(refused(capsys, *reward, tmp_path / "no.jsonl"), "no.jsonl no such file")
    write_rows(file, [{"prompt": "q", "response": "r"}])
    assert "is the file that is read" in refused(capsys, *reward, file, "--out", file)
    assert "is a folder" in refused(capsys, *reward, file, "--out", tmp_path)
    assert says(refused(capsys, *reward, file, "--out", tmp_path / "a.parquet"), "a.parquet .jsonl")
    away = tmp_path / "away" / "out.jsonl"
    assert "No such file or directory" in refused(capsys, *reward, file, "--out", away)
    assert hidden(tmp_path) == []


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        ("function:lenght", "'lenght' no such reward function"),
        ("nowhere.yaml", "--reward nowhere.yaml: no such file"),
        ("./nowhere", "--reward: no such folder ./nowhere"),
        ("{kind: model}", 'needs model'),
        ("{kind: magic}", "kind: is 'magic', not one of function"),
        ("{function: length}", "says no kind"),
        ("{kind: function, function: length, formt: hh}", "formt unknown key did you mean format"),
        ("{kind: function, function: length, format: hh}", "has no use for format"),
        ("{kind", "not valid YAML"),
        ("{}", "holds no settings"),
    ],
)  # fmt: skip
def test_bad_reward(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], reward: str, expected: str
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"prompt": "q", "response": "r"}])
    assert says(refused(capsys, "--reward", reward, file), expected)
    assert hidden(tmp_path) == []


def test_rows_are_scored_a_bounded_number_at_a_time(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{k}", "responses": ["a b", "c", "d"]} for k in range(1000)]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    assert score("--reward", reward_file(tmp_path), file) == 0
    calls = (tmp_path / "reward_function.py.log").read_text().splitlines()
    sizes = [len(call.replace("a b", "a").split()) for call in calls]
    assert sum(sizes) == 3000 and max(sizes) <= 512 + 2
    assert all(first == second for first, second in pairwise(sizes[:-1]))


class Several:
    """Takes three calls at a time, and answers the later ones first; fails on a word."""

    calls_at_once = 3

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.under_way = self.most = self.calls = 0

    def score_groups(self, groups: Sequence[Group]) -> list[list[float | None]]:
        with self._lock:
            self.calls += 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            turn = self.calls
        texts = [[one.text for one in group.completions] for group in groups]
        time.sleep(0.06 if turn % 3 == 1 else 0.01)
        with self._lock:
            self.under_way -= 1
        if any("spoilt" in text for group in texts for text in group):
            raise RewardError(f"nothing is known of prompt {groups[0].prompt.id!r}")
        return [[float(len(text)) for text in group] for group in texts]


def test_rewards_that_take_several_calls_write_the_rows_of_one(tmp_path: Path) -> None:
    file, spec = numbered(tmp_path, 40), read_reward({"kind": "function", "function": "length"}, "")
    several = Several()

    def score_to(name: str, at_once: int) -> bytes:
        several.calls_at_once = at_once
        # a place that runs something else than the spec says
        place = cast(Place, lambda _: several)
        score_file(str(file), spec, out=str(tmp_path / name), batch_rows=2, place=place)
        return (tmp_path / name).read_bytes()

    straight = score_to("one.jsonl", at_once=1)
    assert several.most == 1
    assert score_to("three.jsonl", at_once=3) == straight and several.most == 3
    # what stands before a row that fails is kept, and no more; the same command goes on behind it
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:14], lines[14].replace("14-", "spoilt"), *lines[15:]]))
    several.calls = 0
    with pytest.raises(RewardError, match=r"rows\.jsonl:15: nothing"):
        score_to("cut.jsonl", at_once=3)
    assert len(toy_runs.rows(tmp_path / ".cut.jsonl.partial")) == 14 and several.calls < 20
    file.write_text("\n".join(lines) + "\n")
    several.calls = 0
    assert score_to("cut.jsonl", at_once=3) == straight and several.calls == 13
