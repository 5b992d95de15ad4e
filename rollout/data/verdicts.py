"""Rows of two responses and a verdict on which is better, in the columns of published sets.

| set | answers | verdict |
|---|---|---|
| PKU-SafeRLHF | `response_0`, `response_1` | `better_response_id` |
| SHP | `human_ref_A`, `human_ref_B` | `labels` |
| alpaca_farm | `output_1`, `output_2` | `preference` |
| LLMBar | `output_1`, `output_2` | `label` |
| HelpSteer3 | `response1`, `response2` | `overall_preference` |
| JudgeBench | `response_A`, `response_B` | `label` |
| open-instruct | `completion_a`, `completion_b` | `preference` |
| WebGPT | `answer_0`, `answer_1` | `score_0`, `score_1` |
| summarize_from_feedback | `summaries` | `choice` |
| arena, MT-Bench | `conversation_a`, `conversation_b`, or `response_…` | `winner` |
| Unified-Feedback | `conv_A`, `conv_B` | `conv_A_rating`, `conv_B_rating` |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rollout.data.jsonl import is_finite_number, is_list, is_object, json_kind
from rollout.data.messages import check_messages, check_text
from rollout.errors import InputError
from rollout.types import Message, with_keys

__all__ = ["ARENA", "OPEN_INSTRUCT", "SUMMARY_PREFIX", "name_two"]

_Columns = dict[str, object]
_Verdict = tuple[int | None, float | None]  # place of the better response, None for a tie; margin
_Read = Callable[[_Columns, str], _Verdict]

# Unified-Feedback in the code of GRM and the Mistral reward model (Yang et al. 2024, 2406.10216)
SUMMARY_PREFIX = "Generate one-sentence summary for the following post: "
ARENA: dict[object, int | None] = {
    "model_a": 0, "model_b": 1, "tie": None, "tie (bothbad)": None, "both_bad": None,
}  # fmt: skip
OPEN_INSTRUCT: dict[object, tuple[int | None, float | None]] = {
    "a-is-better": (0, 2.0),
    "a-is-slightly-better": (0, 1.0),
    "tie": (None, None),
    "b-is-slightly-better": (1, 1.0),
    "b-is-better": (1, 2.0),
}


def name_two(found: _Columns, where: str) -> bool:
    """Rename the columns of a row of two responses and a verdict; return whether it is one.

    It then has `responses`, `ranks` (lower is better) and `margin`. Two whole conversations with
    the same prompt become `prompt` and `responses`; others are the `responses`. Raises InputError
    for an unknown verdict, and for a conversation that cannot be read.
    """
    _flatten(found, where)
    for first, second, verdict, read in _TWO:
        if found.keys() >= {first, second, *verdict}:
            better, margin = read(found, where)
            ranks = [0, 0] if better is None else [better, 1 - better]
            sides = [found.pop(first), found.pop(second)]
            found |= {"responses": sides, "ranks": ranks}
            found.setdefault("margin", margin)
            if first in _DIALOGUES:
                _share(found, sides, where, first)
            return True
    return False


def _flatten(found: _Columns, where: str) -> None:
    """Move WebGPT's question, and the posts and summaries of summarize_from_feedback, to columns.

    Raises InputError where there are not two summaries, or a post is missing.
    """
    question = found.get("question")
    if is_object(question) and "full_text" in question:
        found["question"] = question["full_text"]
    info, summaries = found.get("info"), found.get("summaries")
    if not ("choice" in found and is_object(info) and is_list(summaries)):
        return
    texts = [one.get("text") for one in summaries if is_object(one)]
    if len(texts) != 2:
        raise InputError(where, "'summaries' is no list of two", "fix the row")
    post = check_text(info.get("post") or info.get("article"), where, "info.post")
    for key in ("info", "summaries"):
        del found[key]
    found |= {"prompt": SUMMARY_PREFIX + post.strip(), "summary_0": texts[0], "summary_1": texts[1]}


def _share(found: _Columns, sides: list[object], where: str, key: str) -> None:
    """Split two conversations into `prompt` and `responses`, where only their last messages differ.

    Otherwise `prompt` is None and `responses` are the conversations. Raises InputError for one that
    is empty or cannot be read.
    """
    dialogues = [check_messages(one, where, key) for one in sides]
    if not all(dialogues):
        raise InputError(where, f"{key!r} is an empty list", "write messages or delete the row")
    if "summarize" in str(found.get("source")) and key == "conv_A":
        dialogues = [[_as_task(first), *rest] for first, *rest in dialogues]
    (*before, first), (*other, second) = dialogues
    if before == other:
        found |= {"prompt": before, "responses": [first, second]}
    else:
        found |= {"prompt": None, "responses": dialogues}


def _as_task(post: Message) -> Message:
    return with_keys(post, content=SUMMARY_PREFIX + post["content"].strip())


def _one_of(key: str, known: Mapping[object, int | None]) -> _Read:
    return _graded(key, {value: (better, None) for value, better in known.items()})


def _graded(key: str, known: Mapping[object, _Verdict]) -> _Read:
    def read(columns: _Columns, where: str) -> _Verdict:
        value = columns[key]
        if is_list(value) or is_object(value) or value not in known:
            listed = ", ".join(repr(one) for one in known)
            raise InputError(where, f"{key!r} is {value!r}", f"use one of {listed}")
        return known[value]

    return read


def _signed(key: str) -> _Read:
    """Return a reader of a signed number: below 0 the first is better, above 0 the second.

    The margin is its absolute value.
    """

    def read(columns: _Columns, where: str) -> _Verdict:
        value = columns[key]
        if not is_finite_number(value):
            raise InputError(where, f"{key!r} is {json_kind(value)}", "make it a number")
        return (None if value == 0 else int(value > 0)), abs(float(value))

    return read


def _higher(first: str, second: str) -> _Read:
    """Return a reader of two scores: the higher is better, the margin is the difference.

    It reads a tie without a margin where either is no number.
    """

    def read(columns: _Columns, where: str) -> _Verdict:
        values = [columns[key] for key in (first, second)]
        a, b = (float(one) if is_finite_number(one) else None for one in values)
        if a is None or b is None:
            return None, None
        return (None if a == b else int(b > a)), abs(a - b)

    return read


_DIALOGUES = ("conversation_a", "conv_A")
_TWO: tuple[tuple[str, str, tuple[str, ...], _Read], ...] = (
    ("response_0", "response_1", ("better_response_id",),
     _one_of("better_response_id", {0: 0, 1: 1})),
    ("human_ref_A", "human_ref_B", ("labels",), _one_of("labels", {1: 0, 0: 1})),
    ("output_1", "output_2", ("preference",), _one_of("preference", {1: 0, 2: 1, 0: None})),
    ("output_1", "output_2", ("label",), _one_of("label", {1: 0, 2: 1, "1": 0, "2": 1})),
    ("response1", "response2", ("overall_preference",), _signed("overall_preference")),
    ("response_A", "response_B", ("label",), _one_of("label", {"A>B": 0, "B>A": 1})),
    ("completion_a", "completion_b", ("preference",), _graded("preference", OPEN_INSTRUCT)),
    ("answer_0", "answer_1", ("score_0", "score_1"), _higher("score_0", "score_1")),
    ("summary_0", "summary_1", ("choice",), _one_of("choice", {0: 0, 1: 1})),
    ("conversation_a", "conversation_b", ("winner",), _one_of("winner", ARENA)),
    ("response_a", "response_b", ("winner",), _one_of("winner", ARENA)),
    ("conv_A", "conv_B", ("conv_A_rating", "conv_B_rating"),
     _higher("conv_A_rating", "conv_B_rating")),
)  # fmt: skip
