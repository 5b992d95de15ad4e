"""Two answers and who says which is better, in the columns of the sets that have them.

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
_Verdict = tuple[int | None, float | None]  # the better of two, None for neither; by how much
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
    """Whether the row is one of these: then it has `responses`, `ranks` (lower is better) and
    `margin`, and a `prompt` where its answers share one; else `responses` are two dialogues.

    Raises InputError for a verdict, or an answer, that is none.
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
    """WebGPT's question and the posts of summarize_from_feedback stand inside other columns."""
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
    """The prompt of two dialogues, where they differ in their last messages alone."""
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
    """Below 0 the first is better, above it the second."""

    def read(columns: _Columns, where: str) -> _Verdict:
        value = columns[key]
        if not is_finite_number(value):
            raise InputError(where, f"{key!r} is {json_kind(value)}", "make it a number")
        return (None if value == 0 else int(value > 0)), abs(float(value))

    return read


def _higher(first: str, second: str) -> _Read:
    """Two numbers, either of which may be unknown."""

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
