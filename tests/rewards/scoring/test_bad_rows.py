"""One bad row does not end a file: found before a model is loaded, skipped where that is asked."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import toy_runs
from score_files import COUNTING, Stop, hidden, refused, reward_file, score
from wording import refusal, says

import rewards.judges.load
import rewards.models.load
from raft.cli.main import main
from raft.runs.prompts import encode_texts, read_texts
from rewards.data.read import read_pairs
from rollout.data.scored_files import read_scores
from rollout.errors import InputError

tiny: Any = importlib.import_module("tiny_rewards")
judges: Any = importlib.import_module("tiny_judges")

LENGTH = ("--reward", "function:length", "--set", "arguments.unit=chars")
SKIP = ("--on-bad-row", "skip")
USER = {"role": "user", "content": "?"}
# rows that cannot be scored, and what is said of each
BAD = [
    ('{"prompt": "q", "chosen": "aa", "rejected": null}', "'rejected' is null"),
    ('{"prompt": "q", "chosen": null, "rejected": "b"}', "'chosen' is null"),
    (json.dumps({"prompt": "q", "chosen": [USER], "rejected": "b"}), "ends with a message of"),
    ('{"prompt": "q", "chosen": 7, "rejected": "b"}', "'chosen' is a number"),
    ('{"prompt": "  ", "chosen": "a", "rejected": "b"}', "'prompt' is empty"),
    ('{"prompt": "q", "chosen": "a", "reje', "not valid JSON"),
    ('{"prompt": "q", "chosen": "a"}', "no response"),
    ("[1, 2]", "holds a list"),
    ('{"prompt": "q", "chosen": "\\ud800", "rejected": "b"}', "surrogate"),
    ('{"id": [1], "prompt": "q", "chosen": "a", "rejected": "b"}', "id is a list"),
    (b"\xff\xfe", "not UTF-8"),
]


def good(number: int) -> dict[str, Any]:
    return {"prompt": f"q{number}", "chosen": "a" * (number + 1), "rejected": "b"}


def file_of(folder: Path, lines: list[str | bytes | dict[str, Any]]) -> Path:
    path = folder / "rows.jsonl"
    texts = [json.dumps(one) if isinstance(one, dict) else one for one in lines]
    encoded = (one.encode() if isinstance(one, str) else one for one in texts)
    path.write_bytes(b"".join(line + b"\n" for line in encoded))
    return path


@pytest.mark.parametrize(("line", "said"), BAD)
def test_a_bad_row_stops_or_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str | bytes, said: str
) -> None:
    file = file_of(tmp_path, [good(0), good(1), line, good(2)])
    message = refused(capsys, *LENGTH, file)
    assert says(message, f"{file}:3") and says(message, said)
    assert not list(tmp_path.glob("*scored*"))
    assert score(*LENGTH, *SKIP, "--json", file) == 0
    summary = json.loads(capsys.readouterr().out)
    ((reason, told),) = summary["skipped_reasons"].items()
    assert summary["skipped"] == 1 and summary["rows"] == 4 and summary["conversations"] == 6
    assert says(reason, said) and told == {"rows": 1, "first": f"{file}:3"}
    rows = toy_runs.rows(tmp_path / "rows.scored.jsonl")
    assert [row["chosen_score"] for row in rows] == [1, 2, None, 3]
    assert [row["rejected_score"] for row in rows] == [1, 1, None, 1]
    assert [row.get("skipped") for row in rows] == [None, None, reason, None]
    if isinstance(line, str) and line.startswith('{"p') and line.endswith("}"):
        kept = json.loads(line)
        assert {key: rows[2][key] for key in kept} == kept


def test_reasons_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for line, _ in BAD for _ in range(3)]
    assert score(*LENGTH, *SKIP, "--json", file_of(tmp_path, [good(0), *lines])) == 0
    summary = json.loads(capsys.readouterr().out)
    reasons = summary["skipped_reasons"]
    assert summary["skipped"] == 3 * len(BAD) == sum(one["rows"] for one in reasons.values())
    assert {one["rows"] for one in reasons.values()} == {3} and len(reasons) == len(BAD)
    broken = [f'{{"prompt": {"x" * n}' for n in range(1, 60)]
    other = tmp_path / "other"
    other.mkdir()
    file = file_of(
        other, [good(0), *broken, *({"prompt": f"q{n}", "chosen": {}} for n in range(60))]
    )
    assert main(["score", *LENGTH, *SKIP, "--json", str(file)]) == 0
    said = capsys.readouterr()
    assert len(json.loads(said.out)["skipped_reasons"]) <= 21 and "119 rows skipped" in said.err


def test_a_file_without_a_good_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = file_of(tmp_path, [line for line, _ in BAD])
    assert "no row can be used: 11 rows skipped" in refused(capsys, *LENGTH, *SKIP, file)


@pytest.mark.parametrize("form", ["responses", "flat"])
def test_rows_of_responses(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    rows = [
        {"prompt": "q", "responses": ["a", "bbb"]},
        {"prompt": "q", "responses": ["a", None, "c"]},
        {"prompt": "q", "responses": "a"},
        {"prompt": "r", "responses": ["cc", "d"]},
    ]
    if form == "flat":
        rows.append({"prompt": None, "response": "x"})
    file = file_of(tmp_path, [*rows])
    assert says(refusal(capsys, "rank", *LENGTH, file), f"{file}:2 responses[1] is null")
    assert main(["rank", "--quiet", *LENGTH, *SKIP, "--json", str(file)]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["skipped"] == len(rows) - 2 and summary["prompts"] == 2
    ranked = toy_runs.rows(tmp_path / "rows.ranked.jsonl")
    assert [row["ranking"] for row in ranked[:4]] == [[1, 0], [], [], [0, 1]]
    assert ranked[1]["ranking_scores"] == [None] * 3 and ranked[1]["best"] is None
    if form == "responses":
        assert score(*LENGTH, *SKIP, file) == 0
        scored = toy_runs.rows(tmp_path / "rows.scored.jsonl")
        assert [row["scores"] for row in scored] == [[1, 3], [None] * 3, [], [2, 1]]


def test_an_interrupted_command_goes_on_with_the_same_rows_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[Any] = [good(n) if n % 3 else BAD[n // 3][0] for n in range(30)]
    (tmp_path / "straight").mkdir()
    straight = file_of(tmp_path / "straight", lines)
    reward = ("--reward", reward_file(tmp_path, COUNTING), "--batch-rows", "4", *SKIP)
    assert score(*reward, straight) == 0
    expected = (tmp_path / "straight/rows.scored.jsonl").read_bytes()
    file = file_of(tmp_path, lines)
    for calls in (2, 3):
        with Stop(calls):
            assert score(*reward, file) == 130
    capsys.readouterr()
    assert score(*reward, "--json", file) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["skipped"] == 10 and summary["new_conversations"] < 40
    assert (tmp_path / "rows.scored.jsonl").read_bytes() == expected
    assert ".rows.scored.jsonl.partial" not in hidden(tmp_path)
    # a finished file tells again what was skipped
    assert score(*reward, "--json", file) == 0
    assert json.loads(capsys.readouterr().out)["skipped_reasons"] == summary["skipped_reasons"]


REFUSES = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
)


def test_what_a_template_refuses_is_found_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.checkpoint(tmp_path / "model", "llama", tiny.tokenizer(chat_template=REFUSES))
    system = {"role": "system", "content": "Be brief."}
    rows = [tiny.chat("hi", "hello"), [system, *tiny.chat("hi", "hello")], tiny.chat("by", "bye")]
    file = file_of(tmp_path, [{"messages": messages} for messages in rows])
    with monkeypatch.context() as patched:
        patched.setattr(rewards.models.load, "_load", lambda *_: pytest.fail("a model was loaded"))
        message = refused(capsys, "--reward", model, file)
    assert says(message, f"{file}:2") and says(message, "System role not supported")
    assert score("--reward", model, *SKIP, file) == 0
    scores = [row["score"] for row in toy_runs.rows(tmp_path / "rows.scored.jsonl")]
    assert scores[1] is None
    for messages, found in zip(rows[::2], scores[::2], strict=True):
        ids = tiny.tokenizer(chat_template=REFUSES).apply_chat_template(
            messages, tokenize=True, return_dict=False
        )
        assert found == pytest.approx(tiny.reference_score(model, ids), abs=1e-4)


def test_a_response_that_does_not_fit_is_a_bad_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.checkpoint(tmp_path / "model", "llama")
    rows = [{"prompt": "q", "response": "a"}, {"prompt": "q" * 200, "response": "a"}]
    file = file_of(tmp_path, [*rows])
    options = ("--reward", model, "--max-length", "40", "--set", "truncation_side=right")
    assert score(*options, *SKIP, "--json", file) == 0
    (reason,) = json.loads(capsys.readouterr().out)["skipped_reasons"]
    assert "nothing of its response is left" in reason
    assert [row["score"] is None for row in toy_runs.rows(tmp_path / "rows.scored.jsonl")] == [
        False, True,
    ]  # fmt: skip


def test_settings_are_no_bad_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # a column that is there already is a question to the user, in every row
    file = file_of(tmp_path, [{**good(0), "chosen_score": 1}, good(1)])
    assert "--replace" in refused(capsys, *LENGTH, *SKIP, file)
    assert "no such file" in refused(capsys, *LENGTH, *SKIP, tmp_path / "none.jsonl")


def test_evaluations_leave_bad_rows_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = file_of(tmp_path, [good(2), *(line for line, _ in BAD), good(3)])
    command = ("eval-reward", "--quiet", "--bootstrap", "100", *LENGTH, "--data", file)
    assert f"{file}:2" in refusal(capsys, *command)
    assert main([*map(str, command), *SKIP, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["data"]["skipped"] == len(BAD) and found["data"]["pairs"] == 2
    (measured,) = found["models"].values()
    assert measured["accuracy"]["wins"] == 2
    rows: list[Any] = [
        {"id": "a", "prompt": "q", "responses": ["1", "2"], "answer": 2},
        {"id": "b", "prompt": "q", "responses": ["1", None], "answer": 2},
        "{",
    ]
    pool = file_of(tmp_path, rows)
    assert says(refusal(capsys, "eval-pool", "--quiet", pool), f"{pool}:2")
    assert main(["eval-pool", "--quiet", "--json", *SKIP, str(pool)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["questions"], found["skipped"]) == (1, 2)


def test_a_pool_with_bad_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Any] = [
        {"prompt": "q", "responses": ["a", "b"], "scores": [1, 2]},
        {"prompt": "q", "responses": ["a", "b"], "scores": [1]},
        {"prompt": "q", "responses": ["a", 7], "scores": [1, 2]},
        {"prompt": "q", "responses": ["a", "b"]},
    ]
    file = file_of(tmp_path, rows)
    assert says(refusal(capsys, "bon", "--quiet", file), f"{file}:2")
    assert main(["bon", "--quiet", "--json", *SKIP, str(file)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["prompts"], found["skipped"]) == (1, 3)
    assert len(toy_runs.rows(tmp_path / "rows.best.jsonl")) == 1


@pytest.mark.slow
def test_prompts_that_cannot_be_drawn_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = toy_runs.settings(tmp_path)
    lines: list[Any] = [{"id": f"p{n}", "prompt": f"tree {n}"} for n in range(30)]
    lines[3:3] = ["{", '{"prompt": null}', {"id": "long", "prompt": "tree " * 600}]
    file = file_of(tmp_path, lines)
    command = ("sample", "--quiet", "--inline", "--policy", config["policy"]["model"], file)
    assert says(refusal(capsys, *command), f"{file}:4")
    assert main([*map(str, command), *SKIP, "--json", "-n", "2", "--max-new-tokens", "4"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["rows"], summary["skipped"]) == (30, 3)
    assert {one["rows"] for one in summary["skipped_reasons"].values()} == {1}
    drawn = toy_runs.rows(tmp_path / "rows.sampled.jsonl")
    assert [row["id"] for row in drawn] == [f"p{n}" for n in range(30)]
    run = toy_runs.config_file(tmp_path, prompts={"path": str(file)}, iterations=1)
    assert says(refusal(capsys, "run", "--quiet", run), f"{file}:4")
    skipping = ["run", str(run), "prompts.on_bad_row=skip"]
    assert main(skipping) == 0
    said = capsys.readouterr().err
    assert "2 rows skipped" in said and "1 row skipped" in said
    assert main([*skipping, "iterations=2"]) == 0
    asked = {row["id"] for row in toy_runs.rows(tmp_path / "run/iterations/002/rollouts.jsonl")}
    assert asked < {f"p{n}" for n in range(30)}


LISTS: list[Any] = [
    {"id": "a", "prompt": "q", "responses": ["a", "bb"], "answer": 1},
    {"id": "b", "prompt": "r", "responses": ["a", None], "answer": 1},
    "{",
    {"id": "c", "prompt": "s", "responses": ["ccc", "d"], "answer": 1},
]


@pytest.mark.slow
def test_rows_that_were_skipped_stay_so_in_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(*LENGTH, *SKIP, file_of(tmp_path, LISTS)) == 0
    scored = tmp_path / "rows.scored.jsonl"
    rows = toy_runs.rows(scored)
    reasons = [row["skipped"] for row in rows[1:3]]
    assert [row["scores"] for row in rows] == [[1, 2], [None, None], [], [3, 1]]
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    assert score(*LENGTH, *SKIP, file_of(pairs, [good(1), BAD[0][0], "{", good(3)])) == 0
    sides = pairs / "rows.scored.jsonl"
    capsys.readouterr()

    def told(*command: Any) -> dict[str, Any]:
        assert main([*map(str, command), "--quiet", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    again = ("score", scored, *LENGTH, "--output-column", "gold")
    for _ in range(2):  # a finished file says the same
        found = told(*again)
        assert (found["rows"], found["skipped"], found["missing"]) == (4, 2, 0)
        assert list(found["skipped_reasons"]) == reasons
    twice = toy_runs.rows(tmp_path / "rows.scored.scored.jsonl")
    assert [row["gold_scores"] for row in twice] == [[1, 2], [None, None], [], [3, 1]]
    assert [row.get("skipped") for row in twice] == [None, *reasons, None]
    assert told("rank", scored, *LENGTH)["skipped"] == 2
    found = told("bon", scored)
    assert (found["prompts"], found["skipped"]) == (2, 2)
    found = told("eval-pool", scored)
    assert (found["questions"], found["skipped"]) == (2, 2)
    assert any("2 rows skipped" in one for one in told("replay", scored)["notes"])
    for data, form in ((scored, "listwise"), (sides, "pairs")):
        found = told("eval-reward", "--data", data, *LENGTH, "--bootstrap", "100")["data"]
        assert (found["form"], found["rows"], found["skipped"]) == (form, 2, 2)
        assert list(read_pairs(str(data)).report.sources[0].dropped) == list(
            found["skipped_reasons"]
        )
    found = told("eval-reward", "--data", sides, "--score-column", "scores", "--bootstrap", "100")
    assert (found["data"]["pairs"], found["data"]["skipped"]) == (2, 2)
    assert read_scores(str(sides), "from") == [2, 1, 4, 1]
    # a reason beside scores, or a column of the same name in rows that have none, says nothing
    kept = [{**good(2), "skipped": "no", "chosen_score": 1.0}, {**good(3), "skipped": "never"}]
    assert len(read_pairs(str(toy_runs.write_rows(tmp_path / "own.jsonl", kept))).pairs) == 2


def test_the_rows_of_an_evaluation_keep_their_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [BAD[0][0], good(2), "{", {"id": "mine", **good(3)}]
    command = ("eval-reward", "--quiet", "--bootstrap", "100", *LENGTH, *SKIP, "--json")
    out = tmp_path / "out"
    assert main([*command, "--data", str(file_of(tmp_path, lines)), "--out-dir", str(out)]) == 0
    first = json.loads(capsys.readouterr().out)["data"]
    rows = toy_runs.rows(out / "scored.jsonl")
    assert [row["length_scores"] for row in rows] == [None, [3, 1], None, [4, 1]]
    assert [row.get("skipped") for row in rows[1::2]] == [None, None] and rows[3]["id"] == "mine"
    assert {row["skipped"] for row in rows[::2]} == set(first["skipped_reasons"])
    # and its own file needs no --on-bad-row
    stored = ("--data", str(out / "scored.jsonl"), "--score-column", "length")
    assert main(["eval-reward", "--quiet", "--bootstrap", "100", "--json", *stored]) == 0
    again = json.loads(capsys.readouterr().out)["data"]
    assert {**again, "file": 0, "skipped_reasons": 0} == {**first, "file": 0, "skipped_reasons": 0}
    assert again["skipped_reasons"].keys() == first["skipped_reasons"].keys()


SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = [{"role": "user", "content": "hi"}]
ASKED = [
    {"prompt": HELLO, "responses": ["a", "b", "c"]},
    {"prompt": [SYSTEM, *HELLO], "responses": ["a", "b", "c"]},
    {"prompt": HELLO, "responses": ["a", "b" * 150, "c" * 150]},
    {"prompt": HELLO, "responses": ["c", "b", "a"]},
]


@pytest.mark.parametrize("command", ["rank", "bon"])
def test_what_a_judge_does_not_read_is_found_before_it_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:  # fmt: skip
    judge = judges.checkpoint(tmp_path / "judge")
    capsys.readouterr()
    file = file_of(tmp_path, [*ASKED])
    options = (command, file, "--judge", judge, "--max-length", "256", "--quiet")
    with monkeypatch.context() as patched:
        patched.setattr(
            rewards.judges.load, "load_pairwise", lambda *_, **__: pytest.fail("it was loaded")
        )
        message = refusal(capsys, *options)
    assert says(message, f"{file}:2") and says(message, "system, user")
    assert main([*map(str, options), *SKIP, "--json"]) == 0
    reasons = json.loads(capsys.readouterr().out)["skipped_reasons"]
    assert [one["first"][-2:] for one in reasons.values()] == [":2", ":3"]
    assert any("responses alone take" in one for one in reasons)
    if command == "rank":
        rows = toy_runs.rows(tmp_path / "rows.ranked.jsonl")
        assert [bool(row["ranking"]) for row in rows] == [True, False, False, True]
        assert [row.get("skipped") for row in rows] == [None, *reasons, None]


@pytest.mark.parametrize("kind", ["combine", "remote"])
def test_parts_and_servers_are_asked_by_their_tokenizers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    model = str(tiny.checkpoint(tmp_path / "model", "llama", tiny.tokenizer(chat_template=REFUSES)))
    url = {"kind": "remote", "url": "http://127.0.0.1:9", "protocol": "vllm-pooling"}
    remote = {**url, "tokenizer": model, "retries": 0}
    length = {"kind": "function", "function": "length"}
    members = [length, {"kind": "combine", "members": [{"kind": "model", "model": model}]}]
    spec = remote if kind == "remote" else {"kind": "combine", "members": members}
    (tmp_path / "reward.yaml").write_text(json.dumps({"reward": spec}))
    file = file_of(tmp_path, [*ASKED[:2]])
    options = ("--reward", tmp_path / "reward.yaml")
    message = refused(capsys, *options, file)  # and no server was asked
    assert says(message, f"{file}:2") and says(message, "System role not supported")
    if kind == "combine":
        assert score(*options, *SKIP, "--json", file) == 0
        assert json.loads(capsys.readouterr().out)["skipped"] == 1


def test_an_evaluation_finds_what_a_template_refuses_before_loading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.checkpoint(tmp_path / "model", "llama", tiny.tokenizer(chat_template=REFUSES))
    pairs = [{"prompt": f"q{k}", "chosen": "yes", "rejected": "no"} for k in range(4)]
    file = file_of(tmp_path, [*pairs[:2], {**pairs[0], "system": "Be brief."}, *pairs[2:]])
    rewards_ = ("--reward", model, "--reward", "function:length")
    command = ["eval-reward", "--data", file, *rewards_, "--bootstrap", "100"]
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(rewards.models.load, "_load", lambda *_: pytest.fail("a model was loaded"))
        message = refusal(capsys, *command, "--quiet")
    assert says(message, f"{file}:3") and says(message, "System role not supported")
    assert main([*map(str, command), *SKIP, "--quiet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["data"]["skipped"], found["data"]["pairs"]) == (1, 4)
    # both are measured on the same pairs
    assert [one["failed_rows"] for one in found["models"].values()] == [0, 0]


def test_prompts_that_the_reward_of_a_run_refuses_are_bad_rows(tmp_path: Path) -> None:
    refuses = REFUSES.replace("'system'", "'assistant' and 'secret' in m['content']")
    model = tiny.checkpoint(tmp_path / "model", "llama", tiny.tokenizer(chat_template=refuses))
    rows = [
        {"id": f"p{k}", "prompt": [*tiny.chat("hi", "a secret" if k == 7 else f"{k}"), *HELLO]}
        for k in range(30)
    ]
    toy_runs.write_rows(tmp_path / "dialogues.jsonl", rows)
    prompts = {"path": str(tmp_path / "dialogues.jsonl")}
    reward = {"kind": "model", "model": str(model), "function": None, "arguments": None}

    def prepared(**more: Any) -> set[str]:
        config = toy_runs.config(
            tmp_path, reward=reward, policy={"template": "hh"}, prompts=prompts | more
        )
        training, held_out = encode_texts(config, read_texts(config))
        return {one.id for one in (*training, *held_out)}

    with pytest.raises(InputError, match=r"prompt 'p7'.*System role not supported"):
        prepared()
    assert prepared(on_bad_row="skip") == {row["id"] for row in rows} - {"p7"}
