r"""Rename the columns of every published form to the names that all commands read.

| form | columns | become |
|---|---|---|
| LLaMA-Factory, Alpaca | `instruction`, `input`; `output` | `prompt`; `response` |
| ShareGPT | `conversations` | `messages`, or `prompt` beside `chosen` |
| axolotl | `messages`, `chosen`, `rejected` | `prompt` beside them |
| ms-swift | `messages`, `rejected_response`, `rejected_messages` | `prompt`, `chosen`, `rejected` |
| Orca, argilla, stack-exchange | `question`, `chosen_response`, `response_j`, … | the same |
| TRL, no prompt | `chosen`, `rejected`, two texts | `prompt`: what they share, up to a blank |
| two answers and a verdict | see `rollout.data.verdicts` | `responses`, `ranks`, `margin` |
| OpenAI | `input.messages`, `preferred_output`, `non_preferred_output` | the same |
| distilabel | `generations`, `ratings` | `responses`, `scores` |
| NeMo, UltraFeedback, Nectar | `completions`, `answers` | `responses`, `ranks` or `scores` |
| OpenRLHF | `input`, `output`, `reward` | `prompt`, `response`, `score` |

Beside any of them `system`, `system_prompt`, `history`, `chat_history`, `context`, `tools` and
`functions` become messages of the prompt. Context in any other form is an InputError that names the
column, and is never omitted. All other columns stay.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from os.path import commonprefix

from rollout.data.jsonl import is_finite_number, is_list, is_object, json_kind
from rollout.data.messages import (
    MEDIA,
    begins_with_hh_turn,
    check_messages,
    hh_prompt,
    parse_hh,
    read_answer,
    read_tools,
    refuse_media,
)
from rollout.data.verdicts import name_two
from rollout.errors import InputError
from rollout.types import Message, with_keys

__all__ = ["column", "handed_on", "helpsteer_prompt", "known_columns", "renamed"]

_Columns = dict[str, object]
_SIDES = ("chosen", "rejected")
_SYSTEM = ("system", "system_prompt")
_HISTORY = ("history", "chat_history", "context", "documents")
_TOOLS = ("tools", "functions")
_WORSE = ("rejected_response", "rejected_messages", "rejected")
_ASKED = ("instruction", "question", "query")
# names of whole conversations in other trainers
_DIALOGUE = ("conversations", "conversation")
_HELPSTEER = {"response", "helpfulness", "verbosity"}
_TEXT = ("completion", "response", "answer", "text")
_VALUES = (
    ("ranks", "rank"), ("scores", "overall_score"), ("scores", "score"), ("scores", "pm_score"),
)  # fmt: skip
_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")
_SAME = {
    "chosen_response": "chosen", "rejected_response": "rejected", "response_j": "chosen",
    "response_k": "rejected", "preferred_output": "chosen", "non_preferred_output": "rejected",
}  # fmt: skip


def renamed(columns: _Columns, names: Mapping[str, str], where: str) -> _Columns:
    """Return the columns renamed as the user asks: `names` is {name here: name in the file}.

    A name in the file may be dotted, for a column inside another, or "", which removes the column.
    Raises InputError for a column that the row does not have.
    """
    found = {key: value for key, value in columns.items() if key not in names}
    for name, there in names.items():
        # `instruction` becomes the prompt without a renaming, together with its `input`
        if there and (name, there) != ("prompt", "instruction"):
            found[name] = column(columns, there, where)
            if there != name and there not in names:
                found.pop(there, None)
    return found


def column(columns: Mapping[str, object], name: str, where: str) -> object:
    """Return the value of a column, or of one inside others by its dotted name.

    Raises InputError where there is no such column.
    """
    value: object = columns
    if name in columns:
        return columns[name]
    for part in name.split("."):
        if not is_object(value) or part not in value:
            held = ", ".join(columns) or "none"
            raise InputError(where, f"no column {name!r}", f"name one of those there: {held}")
        value = value[part]
    return value


def handed_on(columns: _Columns, known: _Columns, own: Collection[str]) -> _Columns:
    """Return the columns for reward functions: all but a row's `own`, and but `completions` where
    it was read as the responses, since reward functions have an argument of that name."""
    read = {"completions"} - known.keys()
    return {name: value for name, value in columns.items() if name not in {*own, *read}}


def known_columns(columns: _Columns, where: str) -> _Columns:
    """Return the row under the names that all commands read.

    Raises InputError, which begins with `where`, for content or context that cannot be read.
    """
    found = dict(columns)
    if columns.keys() & set(MEDIA):
        refuse_media(found, where)
    _refuse_others(found, where)
    _name_preferred(found)
    _name_dialogue(found, where)
    _name_answers(found, where)
    _name_prompt(found, where)
    _put_context(found, where)
    return found


def _refuse_others(found: _Columns, where: str) -> None:
    """Refuse with InputError the forms that only one other command reads."""
    if found.keys() & {"response", "responses", "messages", *_SIDES}:
        return
    if "message_tree_id" in found and not isinstance(found.get("prompt"), str):
        raise InputError(
            where, "is of an OpenAssistant tree", "train on it: raft train-reward reads trees"
        )
    if found.keys() >= {"input", "targets"} and is_object(found["targets"]):
        raise InputError(
            where, "is of HHH as BIG-bench has it", "evaluate on it: raft eval-reward reads it"
        )


def _name_preferred(found: _Columns) -> None:
    """Move OpenAI's `input.messages` to `prompt`, and the tools beside it to columns."""
    asked = found.get("input")
    if is_object(asked) and "messages" in asked and not found.keys() & set(_SIDES):
        del found["input"]
        found |= {"prompt": asked["messages"]} | {k: asked[k] for k in _TOOLS if k in asked}


def _name_dialogue(found: _Columns, where: str) -> None:
    """Move `conversations` to `messages`, and the messages before two sides to `prompt`."""
    key = "messages"
    for name in _DIALOGUE:
        if is_list(found.get(name)) and not found.keys() & {"prompt", "messages"}:
            found["messages"], key = found.pop(name), name
    if "messages" not in found or found.get("messages") is None:
        return
    sides = [key for key in _WORSE if found.get(key)]
    if sides and "chosen" not in found:
        *before, last = check_messages(found.pop("messages"), where, "messages")
        rejected = found.pop(sides[0])
        if sides[0] == "rejected_messages":
            found |= {"chosen": [*before, last], "rejected": rejected}
        else:
            found |= {"prompt": before, "chosen": [last], "rejected": rejected}
    elif found.keys() >= set(_SIDES) and (found.get("prompt") or _is_dialogue(found["chosen"])):
        del found["messages"]  # the binarized sets repeat the chosen conversation there
    elif found.keys() >= set(_SIDES):
        found["prompt"] = _asked(check_messages(found.pop("messages"), where, key), found, where)


def _asked(turns: list[Message], sides: _Columns, where: str) -> list[Message]:
    """Return the turns that both sides answer, without a repeated answer at their end."""
    if not turns or turns[-1]["role"] != "assistant" or not turns[-1]["content"]:
        return turns
    *before, last = turns
    for side in _SIDES:
        if last["content"] == read_answer(sides[side], where, repr(side)).text:
            return before
    raise InputError(
        where,
        "its conversation ends with an answer that is neither 'chosen' nor 'rejected'",
        "end it with the user's turn",
    )


def _is_dialogue(value: object) -> bool:
    return (is_list(value) and len(value) > 1) or (
        isinstance(value, str) and begins_with_hh_turn(value)
    )


def _name_answers(found: _Columns, where: str) -> None:
    for key, name in _SAME.items():
        if key in found and name not in found:
            found[name] = found.pop(key)
    if is_list(ratings := found.get("ratings")):
        found.setdefault("scores", ratings)
    for key in ("reward", "rewards"):  # of one response, or of each
        if key in found:
            found.setdefault("scores" if is_list(found[key]) else "score", found[key])
    if "responses" in found or found.keys() >= set(_SIDES):
        return
    if name_two(found, where):
        return
    for key in ("generations", "candidates"):
        if is_list(found.get(key)):
            found["responses"] = found.pop(key)
            return
    for key in ("completions", "answers"):
        if is_list(answers := found.get(key)) and answers and all(map(is_object, answers)):
            found |= _several(answers, where, key)
            del found[key]
            if isinstance(asked := found.get("prompt"), str) and begins_with_hh_turn(asked):
                found["prompt"] = list(hh_prompt(asked, where, "prompt"))  # Nectar's
            return
    for key in ("output", "completion"):
        asked = found.keys() & {"prompt", "input", *_ASKED}
        if asked and key in found and not found.keys() & {"response", "messages"}:
            found["response"] = found.pop(key)


def _several(answers: Sequence[object], where: str, key: str) -> _Columns:
    """Return `responses`, and `ranks` (lower is better) or `scores`, of answers as objects."""
    texts: list[object] = []
    for one in answers:
        held = one if is_object(one) else {}
        text = next((held[k] for k in _TEXT if k in held), None)
        if text is None:
            raise InputError(where, f"{key!r} holds an answer without its text", "fix the row")
        texts.append(text)
    for name, by in _VALUES:
        if all(is_object(one) and is_finite_number(one.get(by)) for one in answers):
            return {"responses": texts, name: [one[by] for one in answers if is_object(one)]}
    return {"responses": texts}


def _name_prompt(found: _Columns, where: str) -> None:
    if found.get("prompt") is None:
        asked = next((key for key in _ASKED if isinstance(found.get(key), str)), None)
        more = found.get("input")
        if asked is not None:
            text = str(found.pop(asked))
            # as LLaMA-Factory joins them; Alpaca's own header belongs to a model's template
            extra = isinstance(more, str) and more.strip() and asked == "instruction"
            found["prompt"] = f"{text}\n{more}" if extra else text
        elif more is not None and found.keys() & {"response", "responses"}:
            found["prompt"] = found.pop("input")
        elif "responses" in found or found.keys() >= set(_SIDES):
            for key in ("context", "history"):
                if found.get(key) and "prompt" not in found:
                    found["prompt"] = found.pop(key)
    if found.get("prompt") is None and all(isinstance(found.get(side), str) for side in _SIDES):
        _share_prompt(found, where)
    if isinstance(prompt := found.get("prompt"), str) and found.keys() >= _HELPSTEER:
        found["prompt"] = helpsteer_prompt(prompt)


def helpsteer_prompt(text: str) -> str | list[Message]:
    """Return HelpSteer2's turns (text between `<extra_id_1>User` and `…Assistant` lines) as
    messages; a text of one turn as it is."""
    first, *parts = _TURN.split(text)
    turns = zip(parts[::2], parts[1::2], strict=True)
    more = [Message(role=who.lower(), content=said) for who, said in turns]
    return [Message(role="user", content=first), *more] if more else text


def _share_prompt(found: _Columns, where: str) -> None:
    """Split two whole texts as TRL does: the prompt is what they share, up to the last space."""
    chosen, rejected = (str(found[side]) for side in _SIDES)
    if begins_with_hh_turn(chosen) or begins_with_hh_turn(rejected):
        return
    texts = [key for key, value in found.items() if isinstance(value, str) and " " in value]
    lists = [key for key, value in found.items() if is_list(value) and value]
    if others := [key for key in (*texts, *lists) if key not in _SIDES]:
        raise InputError(
            where, f"no column 'prompt', and {others[0]!r} may be it", "say --columns prompt=NAME"
        )
    shared = commonprefix([chosen, rejected])  # noqa: RUF071 texts, no paths
    shared = shared[: shared.rfind(" ")] if " " in shared else ""
    if shared.strip():
        found |= {"prompt": shared, "chosen": chosen[len(shared) :]}
        found["rejected"] = rejected[len(shared) :]


def _put_context(found: _Columns, where: str) -> None:
    """Put system, history and tools into every conversation of the row."""
    system = _system(found, where)
    before = [turn for key in _HISTORY for turn in _history(found.get(key), where, key)]
    tools = [tool for key in _TOOLS for tool in read_tools(found.get(key), where, key)]
    if system is None and not before and not tools:
        return
    places = [key for key in ("prompt", "messages") if found.get(key) is not None]
    places += [key for key in _SIDES if _is_dialogue(found.get(key))]
    if not places and "responses" in found:
        raise InputError(where, "has context beside two whole dialogues", "put it into both")
    for key in places:
        value = found[key]
        turns = [*before, *_turns(value, where, key)]
        if turns[0]["role"] in ("system", "developer"):
            if system is not None and turns[0]["content"] != system["content"]:
                raise InputError(
                    where, f"'system' is another than that of {key!r}", "keep one of them"
                )
        elif system is not None:
            turns = [system, *turns]
        if tools:
            turns[0] = with_keys(turns[0], tools=tools)
        found[key] = turns
    for key in (*_SYSTEM, *_HISTORY, *_TOOLS):
        found.pop(key, None)


def _system(found: _Columns, where: str) -> Message | None:
    said = {str(found[key]): key for key in _SYSTEM if found.get(key)}
    for text, key in said.items():
        if not isinstance(found[key], str):
            raise InputError(where, f"{key!r} is {json_kind(found[key])}", "make it a string")
        if len(said) == 1:
            return Message(role="system", content=text) if text.strip() else None
    if said:
        raise InputError(where, f"{' and '.join(said.values())} differ", "keep one of them")
    return None


def _history(value: object, where: str, key: str) -> list[Message]:
    """Return the turns before the prompt, from messages or pairs of a question and its answer."""
    if not value:
        return []
    pairs = [
        (one[0], one[1])
        for one in (value if is_list(value) else ())
        if is_list(one) and len(one) == 2
    ]
    if is_list(value) and len(pairs) == len(value):
        roles = ("user", "assistant")
        value = [
            {"role": role, "content": said}
            for pair in pairs
            for role, said in zip(roles, pair, strict=True)
        ]
    elif not is_list(value):
        raise InputError(
            where, f"{key!r} is {json_kind(value)} beside the prompt",
            f"put it into the prompt, or leave it out: --columns {key}=",
        )  # fmt: skip
    return check_messages(value, where, key)


def _turns(value: object, where: str, key: str) -> list[Message]:
    if not isinstance(value, str):
        return check_messages(value, where, key) or [Message(role="user", content="")]
    if begins_with_hh_turn(value):
        return parse_hh(value, where, key)
    return [Message(role="user", content=value)]
