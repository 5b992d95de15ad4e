r"""Preference pairs: the responses `chosen` and `rejected`, and the prompt of each.

A side is the response alone, when the row has a prompt, or a whole conversation: messages, or
`\n\nHuman: …\n\nAssistant: …` text (Bai et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeGuard

from rollout.data.jsonl import is_list, is_object, json_kind
from rollout.data.messages import (
    Content,
    begins_with_hh_turn,
    check_messages,
    hh_prompt,
    parse_hh,
    prompt_content,
    read_answer,
    split_response,
)
from rollout.errors import InputError
from rollout.types import Completion, Group, Message, Prompt

__all__ = ["pair_groups", "response_groups", "shared_prompt"]

_NO_PROMPT = "give the row a prompt, or whole dialogues: messages or '\\n\\nHuman: …' text"


def pair_groups(
    columns: Mapping[str, object], id: str, fields: dict[str, object], where: str
) -> tuple[Group, ...]:
    """Return one group of (chosen, rejected) where both have the same prompt, else a group of each.

    Raises InputError for a side that is neither a response nor a conversation, or a conversation
    that does not begin with the row's prompt.
    """
    (content, chosen), (other, rejected) = _sides(columns, where)
    if content == other:
        return (Group(Prompt(id, content, fields), (chosen, rejected), 0),)
    return tuple(
        Group(Prompt(f"{id} {key}", side, fields), (answer,), 0)
        for key, side, answer in (("chosen", content, chosen), ("rejected", other, rejected))
    )


def response_groups(
    columns: Mapping[str, object],
    drawn: Callable[[], Sequence[Completion]],
    id: str,
    fields: dict[str, object],
    where: str,
    version: int = 0,
) -> tuple[Group, ...]:
    """Return one group of the K responses that `drawn` reads, or no group where K is 0.

    In a row without a prompt, where the responses are whole conversations, each is a group of its
    own. Raises InputError for a row of responses without a prompt, and for a value that is no
    response.
    """
    responses = columns["responses"]
    if columns.get("prompt") is None and is_list(responses) and all(map(is_list, responses)):
        whole = [check_messages(one, where, f"responses[{k}]") for k, one in enumerate(responses)]
        sides = [split_response(one, where, f"responses[{k}]") for k, one in enumerate(whole)]
        return tuple(
            Group(Prompt(f"{id} {k}", before, fields), (answer,), version)
            for k, (before, answer) in enumerate(sides)
        )
    content, completions = prompt_content(columns.get("prompt"), where), tuple(drawn())
    return (Group(Prompt(id, content, fields), completions, version),) if completions else ()


def shared_prompt(columns: Mapping[str, object], where: str) -> Content:
    """Return the prompt that both sides respond to.

    Of conversations that differ earlier it is what they share, up to the last user turn. Raises
    InputError where they share no user turn.
    """
    (first, _), (second, _) = _sides(columns, where)
    if first == second:
        return first
    shared: list[Message] = []
    for a, b in zip(first, second, strict=False):
        if isinstance(a, str) or a != b:
            break
        shared.append(a)
    while shared and shared[-1]["role"] != "user":
        shared.pop()
    if not any(message["content"].strip() for message in shared):
        raise InputError(
            where,
            "'chosen' and 'rejected' share no user turn before their last answers",
            "delete the row, or name a prompt column in prompts.column",
        )
    return tuple(shared)


def _sides(columns: Mapping[str, object], where: str) -> list[tuple[Content, Completion]]:
    prompt = None
    if columns.get("prompt") is not None:
        prompt = _prompt(columns["prompt"], where)
    sides = [_side(columns[key], prompt, where, key) for key in ("chosen", "rejected")]
    if _is_hh(columns.get("prompt")):
        # in HH text the spaces around a turn do not belong to the response
        sides = [(content, Completion(one.text.strip())) for content, one in sides]
    return sides


def _prompt(value: object, where: str) -> Content:
    # in Dahoas/full-hh-rlhf `prompt` is a conversation, `chosen` and `rejected` responses to it
    if isinstance(value, str) and begins_with_hh_turn(value):
        return hh_prompt(value, where, "prompt")
    return prompt_content(value, where)


def _side(
    value: object, prompt: Content | None, where: str, key: str
) -> tuple[Content, Completion]:
    """Return (the prompt of this side, its response). Raises InputError."""
    if is_list(value) or is_object(value):
        return _message_side(check_messages(value, where, key), prompt, where, key)
    if prompt is None or (not isinstance(prompt, str) and _is_hh(value)):
        if not _is_hh(value):
            raise InputError(where, f"{key!r} is {_kind(value)} and no dialogue", _NO_PROMPT)
        return _message_side(parse_hh(value, where, key), prompt, where, key)
    return prompt, read_answer(value, where, repr(key))


def _message_side(
    messages: list[Message], prompt: Content | None, where: str, key: str
) -> tuple[Content, Completion]:
    before, answer = split_response(messages, where, key)
    if prompt is None:
        return before, answer
    asked = (Message(role="user", content=prompt),) if isinstance(prompt, str) else prompt
    if not before:  # the response alone, as a message
        return prompt, answer
    if before[0]["role"] in ("assistant", "tool"):  # the response is several messages
        return (*asked, *before), answer
    begins = before[1:] if before[0]["role"] == "system" != asked[0]["role"] else before
    if begins[: len(asked)] != asked:
        raise InputError(
            where,
            f"{key!r} is a dialogue that does not begin with the row's prompt",
            "make it the answer alone, or leave the prompt out",
        )
    return before, answer


def _is_hh(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and begins_with_hh_turn(value)


def _kind(value: object) -> str:
    return "a text" if isinstance(value, str) and value else json_kind(value)
