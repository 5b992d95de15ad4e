"""Every published form is one thing to all commands: train, score, eval, doctor and sample.

Each row is said again as messages, by hand; the readers of all commands must come to the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewards.data.read import read_pairs
from rewards.doctor.pairs import read_pairs as doctor_pairs
from rewards.evaluation.dataset import read_set
from rollout.data.prompts import read_prompts
from rollout.data.rows_to_score import RowReader
from rollout.data.verdicts import SUMMARY_PREFIX
from rollout.errors import InputError
from rollout.types import Message, Prompt, conversation


def say(role: str, content: str, **keys: Any) -> Message:
    return Message(**{"role": role, "content": content, **keys})


def user(text: str) -> Message:
    return say("user", text)


def assistant(text: str, **keys: Any) -> Message:
    return say("assistant", text, **keys)


def share(who: str, text: str) -> dict[str, str]:
    return {"from": who, "value": text}


Q, GOOD, BAD = user("Q"), assistant("good"), assistant("bad")
BRIEF = say("system", "Be brief.")
SIDES = {"chosen": "good", "rejected": "bad"}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]


def call(city: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "weather", "arguments": {"city": city}}}


def called(city: str) -> Message:
    return assistant("", tool_calls=[call(city)])


# name -> (row, the turns that both answer)
FORMS: dict[str, tuple[dict[str, Any], list[Message]]] = {
    "pair": ({"prompt": "Q", **SIDES}, [Q]),
    "alpaca": ({"instruction": "Q", "input": "", **SIDES}, [Q]),
    "alpaca input": ({"instruction": "Do", "input": "this", **SIDES}, [user("Do\nthis")]),
    "alpaca history": (
        {"instruction": "Q", "history": [["a", "b"]], "system": "Be brief.", **SIDES},
        [BRIEF, user("a"), assistant("b"), Q],
    ),
    "chat_history": (
        {"prompt": "Q", "chat_history": [user("a"), assistant("b")], **SIDES},
        [user("a"), assistant("b"), Q],
    ),
    "sharegpt dict": (
        {
            "conversations": [share("human", "Q")],
            "chosen": share("gpt", "good"),
            "rejected": share("gpt", "bad"),
        },
        [Q],
    ),
    "sharegpt str": (
        {"conversations": [share("system", "Be brief."), share("human", "Q")], **SIDES},
        [BRIEF, Q],
    ),
    "axolotl": ({"messages": [Q], "chosen": GOOD, "rejected": BAD}, [Q]),
    "trl explicit": ({"prompt": [Q], "chosen": [GOOD], "rejected": [BAD]}, [Q]),
    "trl implicit": ({"chosen": [Q, GOOD], "rejected": [Q, BAD]}, [Q]),
    "trl implicit texts": ({"chosen": "The sky is good", "rejected": "The sky is bad"}, []),
    "ultrafeedback binarized": (
        {
            "prompt": "Q", "prompt_id": "x", "messages": [Q, GOOD], "chosen": [Q, GOOD],
            "rejected": [Q, BAD], "score_chosen": 8.0, "score_rejected": 4.0,
        },
        [Q],
    ),
    "orca": ({"system": "Be brief.", "question": "Q", **SIDES}, [BRIEF, Q]),
    "system_prompt": ({"prompt": "Q", "system_prompt": "Be brief.", **SIDES}, [BRIEF, Q]),
    "system before dialogues": (
        {"system": "Be brief.", "chosen": [Q, GOOD], "rejected": [Q, BAD]},
        [BRIEF, Q],
    ),
    "pku": (
        {"prompt": "Q", "response_0": "bad", "response_1": "good", "better_response_id": 1,
         "safer_response_id": 0},
        [Q],
    ),
    "shp": (
        {"history": "Q", "human_ref_A": "good", "human_ref_B": "bad", "labels": 1, "score_A": 10},
        [Q],
    ),
    "alpaca_farm": (
        {"instruction": "Q", "input": "", "output_1": "bad", "output_2": "good", "preference": 2},
        [Q],
    ),
    "argilla": (
        {"instruction": "Q", "chosen_response": "good", "rejected_response": "bad",
         "chosen_rating": 5, "rejected_rating": None},
        [Q],
    ),
    "helpsteer3": (
        {"context": [BRIEF, Q], "response1": "bad", "response2": "good", "overall_preference": 2},
        [BRIEF, Q],
    ),
    "nemo": (
        {"context": [Q], "completions": [{"rank": 1, "completion": [BAD]},
                                         {"rank": 0, "completion": [GOOD]}]},
        [Q],
    ),
    "swift": ({"messages": [Q, GOOD], "rejected_response": "bad"}, [Q]),
    "swift messages": ({"messages": [Q, GOOD], "rejected_messages": [Q, BAD]}, [Q]),
    "stack exchange": ({"question": "Q", "response_j": "good", "response_k": "bad"}, [Q]),
    "role names": (
        {"chosen": [say("human", "Q"), say("gpt", "good")],
         "rejected": [say("human", "Q"), say("gpt", "bad")]},
        [Q],
    ),
    "sharegpt with the answer": (
        {"conversations": [share("human", "Q"), share("gpt", "good")], **SIDES},
        [Q],
    ),
    "messages and the worse": ({"messages": [Q, GOOD], "rejected": "bad"}, [Q]),
    "arena": (
        {"model_a": "x", "model_b": "y", "winner": "model_b", "conversation_a": [Q, BAD],
         "conversation_b": [Q, GOOD], "judge": "arena_user_1", "turn": 1},
        [Q],
    ),
    "unified feedback": (
        {"conv_A": [Q, GOOD], "conv_A_rating": 1.5, "conv_B": [Q, BAD], "conv_B_rating": 1,
         "num_turns": 2, "source": "openbmb/UltraFeedback"},
        [Q],
    ),
    "unified feedback, summaries": (
        {"conv_A": [user(" post "), BAD], "conv_A_rating": 0, "conv_B": [user(" post "), GOOD],
         "conv_B_rating": 1, "source": "openai/summarize_from_feedback(comparisons)"},
        [user(SUMMARY_PREFIX + "post")],
    ),
    "webgpt": (
        {"question": {"dataset": "d", "id": "1", "full_text": "Q"}, "answer_0": "bad",
         "answer_1": "good", "score_0": -1.0, "score_1": 1.0, "quotes_0": {"title": []}},
        [Q],
    ),
    "summarize": (
        {"info": {"id": "t", "post": "post ", "article": None}, "choice": 1, "worker": "w",
         "summaries": [{"text": "bad", "policy": "p"}, {"text": "good", "policy": "q"}]},
        [user(SUMMARY_PREFIX + "post")],
    ),
    "judgebench": (
        {"pair_id": "x", "question": "Q", "response_A": "good", "response_B": "bad",
         "label": "A>B"},
        [Q],
    ),
    "llmbar": ({"input": "Q", "output_1": "bad", "output_2": "good", "label": 2}, [Q]),
    "open-instruct": (
        {"prompt": "Q", "completion_a": "good", "completion_b": "bad",
         "preference": "a-is-slightly-better"},
        [Q],
    ),
    "nectar": (
        {"prompt": "\n\nHuman: Q \n\nAssistant: ", "source": ["x"],
         "answers": [{"answer": "bad", "rank": 2.0}, {"answer": "good", "rank": 1.0}]},
        [Q],
    ),
    "openai": (
        {"input": {"messages": [BRIEF, Q], "tools": [], "parallel_tool_calls": True},
         "preferred_output": [GOOD], "non_preferred_output": [BAD]},
        [BRIEF, Q],
    ),
    "distilabel": (
        {"instruction": "Q", "generations": ["bad", "good"], "ratings": [1.0, 4.5],
         "generation_models": ["x", "y"]},
        [Q],
    ),
    "stack exchange answers": (
        {"qid": 1, "question": "Q", "answers": [{"answer_id": 1, "text": "bad", "pm_score": 0},
                                                {"answer_id": 2, "text": "good", "pm_score": 3}]},
        [Q],
    ),
    "human preference": (
        {"model_a": "x", "model_b": "y", "prompt": "Q", "response_a": "good", "response_b": "bad",
         "winner": "model_a"},
        [Q],
    ),
    "parts": (
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}],
         "chosen": {"role": "assistant", "content": [{"type": "text", "text": "go"}, "od"]},
         "rejected": "bad"},
        [Q],
    ),
}  # fmt: skip
FORMS["trl implicit texts"] = (FORMS["trl implicit texts"][0], [user("The sky is")])


def sides_of(name: str) -> tuple[Message, Message]:
    return (assistant(" good"), assistant(" bad")) if "implicit texts" in name else (GOOD, BAD)


def write(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("name", FORMS)
def test_a_form_reads_alike_in_every_command(tmp_path: Path, name: str) -> None:
    row, asked = FORMS[name]
    good, bad = ([*asked, side] for side in sides_of(name))
    file = write(tmp_path / "rows.jsonl", [row])
    (pair,) = read_pairs(file).pairs
    assert [pair.conversation("chosen"), pair.conversation("rejected")] == [good, bad]
    (scored,) = RowReader(file).rows()
    drawn = [conversation(g.prompt, one) for g in scored.groups for one in g.completions]
    assert sorted(map(str, drawn)) == sorted(map(str, [good, bad]))
    (rated,) = read_set(file).rows()
    better = max(range(2), key=lambda k: rated.gold[k])
    assert rated.conversations[better] == good and rated.conversations[1 - better] == bad
    assert doctor_pairs(file)[0].conversations == [good, bad]
    if "texts" not in name:
        (prompt,) = read_prompts(file)
        assert conversation(prompt, pair_answer())[:-1] == asked


def pair_answer() -> Any:
    from rollout.types import Completion

    return Completion("x")


def test_calls_of_tools_tell_right_from_wrong(tmp_path: Path) -> None:
    row = {"prompt": [Q], "chosen": [called("Paris")], "rejected": [called("Berlin")]}
    text = json.dumps({"city": "Berlin"})  # as OpenAI writes arguments
    legacy = {"role": "assistant", "content": None,
              "function_call": {"name": "weather", "arguments": text}}  # fmt: skip
    asked = [{**Q, "tools": TOOLS}]
    for tools in ({"tools": TOOLS}, {"tools": json.dumps(TOOLS)},
                  {"functions": [TOOLS[0]["function"]]}):  # fmt: skip
        for other in ([called("Berlin")], legacy):
            file = write(tmp_path / "rows.jsonl", [{**row, **tools, "rejected": other}])
            (pair,) = read_pairs(file).pairs
            assert pair.conversation("chosen") == [*asked, called("Paris")]
            assert pair.conversation("rejected") == [*asked, called("Berlin")]
            (scored,) = RowReader(file).rows()
            (group,) = scored.groups
            assert [one.answer for one in group.completions] == [called("Paris"), called("Berlin")]


def test_pairs_that_share_an_id_are_all_scored(tmp_path: Path) -> None:
    rows = [{"id": "q", "prompt": "Q", "chosen": f"a{k}", "rejected": "b"} for k in range(3)]
    reader = RowReader(write(tmp_path / "rows.jsonl", rows))
    assert reader.check(lambda row: None).rows == 3
    found = list(reader.rows())
    assert len({row.id for row in found}) == 3 and [row.columns for row in found] == rows


FLAT = [
    {"prompt": f"Q{k % 2}", "response": f"r{k}", "reward": float(k), "gold_score": k}
    for k in range(4)
]


def test_flat_rows_of_one_prompt_are_one_pool_wherever_they_stand(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", FLAT)
    first, second = RowReader(file, form="responses").rows()
    assert [one.text for one in first.groups[0].completions] == ["r0", "r2"]
    assert first.columns["scores"] == [0.0, 2.0] and second.columns["gold_scores"] == [1, 3]
    openrlhf = [
        {"input": r["prompt"], "output": r["response"], "reward": r["reward"]} for r in FLAT
    ]
    pools = RowReader(write(tmp_path / "rows.jsonl", openrlhf), form="responses").rows()
    assert [pool.columns["scores"] for pool in pools] == [[0.0, 2.0], [1.0, 3.0]]


@pytest.mark.parametrize("column", ["score", "reward", "rank"])
def test_flat_rows_make_the_pairs_and_lists_that_grouped_ones_make(
    tmp_path: Path, column: str
) -> None:
    sign = -1 if column == "rank" else 1
    rows = [
        {"id": f"q{k % 2}", "prompt": f"Q{k % 2}", "response": f"r{k}", column: sign * k}
        for k in range(6)
    ]
    rows[5][column] = None
    grouped = [
        {"id": f"q{p}", "prompt": f"Q{p}", "responses": [one["response"] for one in rows[p::2]],
         "ranks" if sign < 0 else "scores": [one[column] for one in rows[p::2]]}
        for p in range(2)
    ]  # fmt: skip
    flat, whole = tmp_path / "flat.jsonl", tmp_path / "whole.jsonl"
    write(flat, rows)
    write(whole, grouped)
    sources: list[Any] = [{"path": str(path), "source": "x"} for path in (flat, whole)]
    expected = read_pairs(sources[1]).pairs
    assert read_pairs(sources[0]).pairs == expected and len(expected) == 4
    first, second = (read_set(str(path)) for path in (flat, whole))
    assert first.form == "listwise" == second.form
    np.testing.assert_array_equal(first.gold_R, second.gold_R)
    told = [[(row.id, row.conversations) for row in one.rows()] for one in (first, second)]
    assert told[0] == told[1]
    # also where the column has a name of its own, and is the same for all of a prompt
    for k, one in enumerate(rows):
        one["quality"] = k if k % 2 else 1
    assert list(read_set(write(flat, rows), gold="quality").gold_R) == [1, 1, 1, 1, 3, 5]


def test_dialogues_that_differ_before_their_answers_are_scored_as_two(tmp_path: Path) -> None:
    turns = [[Q, assistant(a), user("more"), assistant(b)] for a, b in (("a", "x"), ("b", "y"))]
    row = {"conversation_a": turns[0], "conversation_b": turns[1], "winner": "tie"}
    file = write(tmp_path / "rows.jsonl", [row])
    (found,) = RowReader(file).rows()
    said = [conversation(group.prompt, one) for group in found.groups for one in group.completions]
    assert said == turns and found.scored([[1.0], [2.0]]) == {**row, "scores": [1.0, 2.0]}
    (prompt,) = read_prompts(file)
    assert prompt.content == (Q,)
    with pytest.raises(InputError, match="equally good"):
        read_set(file)
    assert len(read_set(write(tmp_path / "won.jsonl", [{**row, "winner": "model_a"}])).row_M) == 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"message_tree_id": "t", "prompt": {"text": "Q", "replies": []}}, "raft train-reward"),
        ({"message_id": "m", "parent_id": None, "text": "Q", "role": "prompter",
          "message_tree_id": "m"}, "raft train-reward"),
        ({"input": "Q", "targets": {"choices": ["a", "b"], "labels": [1, 0]}}, "raft eval-reward"),
        ({"prompt": "Q", "chosen": ["a"], "rejected": ["b", "c"]}, "raft eval-reward"),
        ({"conversations": [share("human", "Q"), share("gpt", "other")], **SIDES}, "neither"),
        ({"system": "Be brief.", "winner": "tie",
          "conversation_a": [Q, GOOD], "conversation_b": [user("R"), BAD]}, "context"),
    ],
)  # fmt: skip
def test_what_another_command_reads_is_said(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        list(RowReader(write(tmp_path / "rows.jsonl", [row])).rows())
    if isinstance(row.get("chosen"), list):
        with pytest.raises(InputError, match=said):
            read_pairs(str(tmp_path / "rows.jsonl"))


def test_turns_in_the_text_of_helpsteer2(tmp_path: Path) -> None:
    aspects = dict.fromkeys(("helpfulness", "correctness", "coherence", "complexity"), 3)
    text = "Q\n<extra_id_1>Assistant\ngood\n<extra_id_1>User\nmore"
    rows = [
        {"prompt": text, "response": one, **aspects, "helpfulness": k, "verbosity": 1}
        for k, one in enumerate(("bad", "good"))
    ]
    file = write(tmp_path / "rows.jsonl", rows)
    (pair,) = read_pairs(file).pairs
    _, scored = RowReader(file).rows()
    asked = [Q, GOOD, user("more")]
    assert list(pair.prompt) == asked == list(scored.groups[0].prompt.content)


def test_rows_that_stand_again_are_one_prompt(tmp_path: Path) -> None:
    rows = [{"prompt": [Q], "id": 0}] * 2 + [{"prompt": [user("other")], "id": 0}]
    prompts = read_prompts(write(tmp_path / "rows.jsonl", rows))
    assert prompts == [Prompt("0", (Q,)), Prompt("0~2", (user("other"),))]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"prompt": "Q", "images": ["a.png"], **SIDES}, "images"),
        ({"prompt": "Q", "context": "It is so.", **SIDES}, "context"),
        ({"prompt": "Q", "history": "so far", **SIDES}, "history"),
        ({"prompt": "Q", "documents": ["text"], **SIDES}, "documents"),
        ({"asked": "what is it", **SIDES}, "asked"),
        ({"prompt": [BRIEF, Q], "system": "Be long.", **SIDES}, "system"),
        ({"prompt": "Q", "system": 3, **SIDES}, "system"),
        ({"prompt": "Q", "tools": "no JSON", **SIDES}, "tools"),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}], **SIDES}, "image"),
        ({"prompt": [{**Q, "images": ["a.png"]}], **SIDES}, "images"),
    ],
)
def test_context_that_cannot_be_read_is_refused_by_its_name(
    tmp_path: Path, row: dict[str, Any], name: str
) -> None:
    file = write(tmp_path / "rows.jsonl", [row])
    for read in (read_pairs, lambda f: list(RowReader(f).rows()), read_set, doctor_pairs):
        with pytest.raises(InputError) as caught:
            read(file)
        assert f"{name}'" in str(caught.value) and "rows.jsonl:1" in str(caught.value)


def test_empty_columns_of_context_say_nothing(tmp_path: Path) -> None:
    empty = {"system": "", "history": [], "tools": None, "images": [], "context": None}
    (pair,) = read_pairs(write(tmp_path / "rows.jsonl", [{"prompt": "Q", **empty, **SIDES}])).pairs
    assert pair.conversation("chosen") == [Q, GOOD]


def test_the_old_format_of_alpaca_rows_is_still_read(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"instruction": "Q", **SIDES}])
    (pair,) = read_pairs({"path": file, "format": "alpaca"}).pairs
    assert pair.conversation("chosen") == [Q, GOOD]


def test_a_list_of_more_than_two_is_no_pair_to_doctor(tmp_path: Path) -> None:
    ranked = [{"rank": k, "completion": [assistant(str(k))]} for k in range(3)]
    file = write(tmp_path / "rows.jsonl", [{"context": [Q], "completions": ranked}])
    assert len(read_set(file).row_M) == 3 == len(read_pairs(file).pairs)
    with pytest.raises(InputError, match="3 responses"):
        doctor_pairs(file)


def test_an_instruction_named_as_the_prompt_keeps_its_input(tmp_path: Path) -> None:
    row = {"instruction": "Name a fruit", "input": "red", "output": "apple"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    # whoever names it: the command line, a config, or Python
    for names in ({}, {"prompt": "instruction"}):
        reader = RowReader(str(tmp_path / "rows.jsonl"), columns=names)
        (found,) = reader.rows()
        assert found.groups[0].prompt.content == "Name a fruit\nred"
        (prompt,) = read_prompts(tmp_path / "rows.jsonl", columns=names)
        assert prompt.content == "Name a fruit\nred"
