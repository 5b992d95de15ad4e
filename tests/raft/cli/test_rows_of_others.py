"""Other trainers' rows through whole commands: score, bon, eval-pool, sample, doctor's model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_rewards
import toy_runs
from toy_runs import write_rows

from raft.cli.main import main
from rewards import load_reward
from rollout.errors import InputError
from rollout.types import Completion, Group, Prompt

CALLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}{% for c in m.tool_calls or [] %}"
    "{{ c['function'] | tojson }}{% endfor %}{% endfor %}"
)
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    toy_runs.settings(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model(folder: Path, template: str) -> Any:
    made = tiny_rewards.tokenizer()
    made.chat_template = template
    return load_reward(str(tiny_rewards.checkpoint(folder, "classifier", made)))


def called(city: str) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": city}}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def test_models_read_parts_as_their_text_and_calls_as_the_template_writes_them(home: Path) -> None:
    rm = model(home / "rm", CALLS)
    user, answer = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
    parts = [
        {**one, "content": [{"type": "text", "text": one["content"]}]} for one in (user, answer)
    ]
    shared = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    scores = rm.score([[user, answer], parts, shared])
    assert scores[0] == scores[1] == scores[2]
    with_tools = {**user, "tools": TOOLS}
    talks = [[with_tools, called("Paris")], [with_tools, called("Berlin")], [user, called("Paris")]]
    expected = [
        rm.encoder.tokenizer.apply_chat_template(turns, tools=tools, tokenize=False)
        for turns, tools in (
            ([user, called("Paris")], TOOLS), ([user, called("Berlin")], TOOLS),
            ([user, called("Paris")], None),
        )
    ]  # fmt: skip
    from rewards.encoding.formats import Rendered

    assert rm.score(talks).tolist() == rm.score([Rendered(text) for text in expected]).tolist()
    assert len(set(rm.score(talks).tolist())) == 3
    drawn = tuple(Completion("", message=called(city)) for city in ("Paris", "Berlin"))  # type: ignore[arg-type]
    group = Group(Prompt("p", (with_tools,)), drawn, 0)  # type: ignore[arg-type]
    assert rm.score_groups([group])[0] == rm.score(talks[:2]).tolist()
    for broken in ({"type": "image"}, {"type": "image_url", "image_url": {}}):
        with pytest.raises(InputError, match="image"):
            rm.score([[{"role": "user", "content": [broken]}, answer]])


def test_formats_without_calls_refuse_them(home: Path) -> None:
    user = {"role": "user", "content": "Hi"}
    for format in ("plain", "hh_hash"):
        rm = load_reward(str(tiny_rewards.checkpoint(home / format, "classifier")), format=format)
        with pytest.raises(InputError, match="tool_calls"):
            rm.score([[user, called("Paris")]])
        with pytest.raises(InputError, match="reasoning_content"):
            rm.score([[user, {"role": "assistant", "content": "a", "thinking": "b"}]])


def test_functions_do_not_take_a_call_for_the_empty_answer(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(home / "r.jsonl", [{"messages": [{"role": "user", "content": "Q"}, called("P")]}])
    assert main(["score", "r.jsonl", "--reward", "function:length", "--quiet"]) == 2
    assert "tool_calls" in capsys.readouterr().err


def test_a_begun_answer_is_drawn_on_and_scored_as_one(home: Path) -> None:
    begun = [{"role": "user", "content": "tree"}, {"role": "assistant", "content": "river "}]
    write_rows(home / "p.jsonl", [{"prompt": begun}, {"prompt": [*begun[:1]]}])
    drawing = ("--policy", "policy", "-n", "2", "--max-new-tokens", "4", "--inline", "--quiet")
    assert main(["sample", "p.jsonl", *drawing, "--template", "hh"]) == 0
    continued, answered = toy_runs.rows(home / "p.sampled.jsonl")
    assert continued["prompt"] == begun
    # the toy's words, and nothing between the begun answer and what is drawn
    assert continued["prompt_token_ids"][:-1] == answered["prompt_token_ids"]
    rm = model(home / "rm", CALLS)
    assert main(["score", "p.sampled.jsonl", "--reward", "rm", "--quiet"]) == 0
    stored = toy_runs.rows(home / "p.sampled.scored.jsonl")[0]
    whole = [
        [begun[0], {"role": "assistant", "content": "river " + text}]
        for text in stored["responses"]
    ]
    np.testing.assert_allclose(stored["scores"], rm.score(whole), rtol=1e-6)


FLAT = [
    {"question": f"Q{k % 2}", "output": f"it is {k % 3}", "reward": k, "truth": {"number": "1"}}
    for k in range(6)
]


@pytest.mark.slow
def test_flat_rows_make_pools_for_bon_and_eval_pool(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(home / "flat.jsonl", FLAT)
    pools = [
        {
            "prompt": f"Q{p}",
            "responses": [one["output"] for one in FLAT[p::2]],
            "scores": [one["reward"] for one in FLAT[p::2]],
            "answer": "1",
        }
        for p in range(2)
    ]
    write_rows(home / "pool.jsonl", pools)
    found = []
    for name, more in (("flat", ["--answer-column", "truth.number"]), ("pool", [])):
        assert main(["bon", f"{name}.jsonl", "--quiet", "--json"]) == 0
        curve = json.loads(capsys.readouterr().out)["curve"]
        assert main(["eval-pool", f"{name}.jsonl", *more, "--quiet", "--json"]) == 0
        found.append((curve, json.loads(capsys.readouterr().out)["results"]))
    assert found[0] == found[1]


def test_true_and_false_are_scores_and_texts_are_refused(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"prompt": "Q", "responses": ["a", "b"], "scores": [False, True]}
    write_rows(home / "pool.jsonl", [row])
    assert main(["bon", "pool.jsonl", "--quiet", "--json"]) == 0
    curve = json.loads(capsys.readouterr().out)["curve"]
    assert [point["proxy"]["mean"] for point in curve] == [0.5, 1.0]
    best = toy_runs.rows(home / "pool.best.jsonl")[0]
    assert best["response"] == "b" and best["score"] == 1
    write_rows(home / "pool.jsonl", [row, {**row, "scores": ["0.5", "1"]}])
    assert main(["bon", "pool.jsonl", "--quiet", "--restart"]) == 2
    assert "pool.jsonl:2" in capsys.readouterr().err


def test_columns_by_other_names(home: Path) -> None:
    write_rows(home / "r.jsonl", [{"ask": "Q", "said": {"text": "four"}}])
    names = ("--columns", "prompt=ask,response=said.text")
    assert main(["score", "r.jsonl", "--reward", "function:length", *names, "--quiet"]) == 0
    (row,) = toy_runs.rows(home / "r.scored.jsonl")
    assert row.pop("score") == 1 and row == {"ask": "Q", "said": {"text": "four"}}


def test_flat_rows_of_one_prompt_are_ranked_within_it(home: Path) -> None:
    # a z-score within the prompt's responses needs to know them all
    body = "return [float(c.count('x')) for c in completions]"
    function = toy_runs.reward_file(home, body)
    spec = {"kind": "combine", "members": [{**function, "normalise": "group"}]}
    (home / "reward.yaml").write_text(json.dumps({"reward": spec}))
    flat = [{"prompt": f"Q{p}", "response": "x" * k} for p in range(2) for k in (1, 2, 3)]
    write_rows(home / "flat.jsonl", flat)
    assert main(["score", "flat.jsonl", "--reward", "reward.yaml", "--quiet"]) == 0
    scores = [row["score"] for row in toy_runs.rows(home / "flat.scored.jsonl")]
    assert scores[0] == scores[3] < 0 == scores[1] == scores[4] < scores[2] == scores[5]


def test_outputs_keep_the_names_of_the_file(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"question": f"Q{k}", "reply": "a" * k, "meta": {"truth": k}, "prompt": "own", "note": k}
        for k in range(1, 4)
    ]
    write_rows(home / "r.jsonl", rows)
    names = ("--columns", "prompt=question,response=reply,answer=meta.truth,note=")
    length = ("--reward", "function:length", "--set", "arguments.unit=chars", "--quiet")
    for _ in range(2):  # and a finished file is one
        assert main(["score", "r.jsonl", *names, *length]) == 0
    assert toy_runs.rows(home / "r.scored.jsonl") == [
        {**row, "score": k} for k, row in enumerate(rows, 1)
    ]
    lists = [{"question": "Q", "replies": ["a", "bbb"], "scores": "of the user"}]
    write_rows(home / "k.jsonl", lists)
    names = ("--columns", "prompt=question,responses=replies,scores=")
    assert main(["rank", "k.jsonl", *names, *length]) == 0
    (ranked,) = toy_runs.rows(home / "k.ranked.jsonl")
    assert ranked["ranking"] == [1, 0] and {**ranked, **lists[0]} == ranked
    assert "prompt" not in ranked
    # a column of the file that would be replaced is asked about, whatever its name is here
    assert main(["score", "k.jsonl", *names, *length]) == 2
    assert "--replace" in capsys.readouterr().err
    pairs = [{"asked": "Q", "good": "aa", "bad": "b"}]
    write_rows(home / "p.jsonl", pairs)
    names = ("--columns", "prompt=asked,chosen=good,rejected=bad")
    command = ["eval-reward", "--data", "p.jsonl", *names, *length, "--out-dir", "out"]
    assert main([*command, "--bootstrap", "100"]) == 0
    (row,) = toy_runs.rows(home / "out/scored.jsonl")
    assert {name: row[name] for name in ("asked", "good", "bad")} == pairs[0]
    assert "prompt" not in row and row["length_scores"] == [2, 1]


@pytest.mark.slow
def test_the_name_of_a_form_is_the_same_everywhere(home: Path) -> None:
    write_rows(home / "p.jsonl", [{"prompt": "Q", "chosen": "aa", "rejected": "b"}])
    length = ("--reward", "function:length", "--quiet")
    for name in ("pair", "pairs"):
        assert main(["score", "p.jsonl", "--form", name, *length, "--restart"]) == 0
        command = ["eval-reward", "--data", "p.jsonl", "--form", name, *length]
        assert main([*command, "--bootstrap", "100"]) == 0


@pytest.mark.parametrize("line", ['{"prompt": "Q, "a": 1}', '{"prompt": "Q', "{'a': 1}"])
def test_the_place_of_broken_json_is_said_once(
    home: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    (home / "r.jsonl").write_text(line + "\n")
    assert main(["score", "r.jsonl", "--reward", "function:length", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "at column" in said and "at at" not in said


def test_answers_named_as_the_arguments_of_a_function_are_read(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranked = [{"rank": k, "completion": "a" * (k + 1)} for k in range(3)]
    write_rows(home / "nemo.jsonl", [{"context": [{"role": "user", "content": "Q"}],
                                      "completions": ranked}])  # fmt: skip
    write_rows(home / "flat.jsonl", [{"prompt": "Q", "completion": "aaaa"}])
    length = ("--reward", "function:length", "--set", "arguments.unit=chars", "--quiet")
    for name, column, expected in (("nemo", "scores", [1, 2, 3]), ("flat", "score", 4)):
        assert main(["score", f"{name}.jsonl", *length]) == 0
        (row,) = toy_runs.rows(home / f"{name}.scored.jsonl")
        assert row[column] == expected and ("completions" in row) == (name == "nemo")
    assert main(["rank", "nemo.jsonl", *length]) == 0
    command = ["eval-reward", "--data", "nemo.jsonl", "--bootstrap", "100", "--json", *length]
    assert main(command) == 0
    write_rows(home / "p.jsonl", [{"prompt": "Q", "chosen": "a", "rejected": "b"}])
    capsys.readouterr()
    assert main(["rank", "p.jsonl", *length]) == 2
    assert "raft eval-reward" in capsys.readouterr().err


@pytest.mark.slow
def test_an_id_that_stands_twice_ends_no_command(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": 0, "prompt": f"Q{k}", "responses": ["1", "2"], "answer": 2} for k in range(2)]
    write_rows(home / "r.jsonl", rows)
    length = ("--reward", "function:length", "--quiet")
    assert main(["score", "r.jsonl", *length]) == 0
    assert main(["bon", "r.scored.jsonl", "--quiet", "--json"]) == 0
    capsys.readouterr()
    assert main(["eval-pool", "r.scored.jsonl", "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["questions"] == 2
    answers = [{"id": 0, "prompt": "Q", "truth": k} for k in (2, 3)]
    for number, code in ((1, 0), (2, 2)):  # but not which of two answers is right
        write_rows(home / "answers.jsonl", answers[:number])
        command = ["eval-pool", "r.jsonl", "--questions", "answers.jsonl", "--quiet"]
        assert main([*command, "--columns", "answer=", "--answer-column", "truth"]) == code
    assert "answers.jsonl:2" in capsys.readouterr().err
