r"""Checked messages, out of message lists or out of `\n\nHuman: …\n\nAssistant: …` text.

Every error begins with `where`, the place of the row that holds the value, and names its `key`.
"""

from __future__ import annotations

import re
from itertools import takewhile

from rollout.data.jsonl import is_list, is_object, json_kind
from rollout.errors import InputError
from rollout.types import Message

Content = str | tuple[Message, ...]

ROLES = ("system", "user", "assistant")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}
_HH_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


def begins_with_hh_turn(text: str) -> bool:
    return _HH_TURN.match(text) is not None


def check_text(value: object, where: str, key: str) -> str:
    """`value`, where it is text that is not blank. Raises InputError."""
    if not isinstance(value, str):
        raise InputError(
            where,
            f"{key!r} is {json_kind(value)}",
            "make it a string or a list of messages",
        )
    if not value.strip():
        raise InputError(where, f"{key!r} is empty", "write a prompt or delete the row")
    return _encodable(value, where, key)


def check_messages(value: list[object], where: str, key: str) -> list[Message]:
    """Role and content of each message, other keys dropped. Raises InputError for anything else."""
    messages: list[Message] = []
    for number, message in enumerate(value, start=1):
        at = f"{where}: {key!r} message {number}"
        if not is_object(message) or not {"role", "content"} <= message.keys():
            raise InputError(at, 'is not {"role": …, "content": …}', "write both")
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise InputError(at, f"has role {role!r}", f"use one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise InputError(at, f"has {json_kind(content)} as content", "make it a string")
        messages.append(Message(role=role, content=_encodable(content, where, key)))
    if not any(message["content"].strip() for message in messages):
        raise InputError(where, f"{key!r} is empty", "write a message or delete the row")
    return messages


def ending_with_user(messages: list[Message], where: str) -> tuple[Message, ...]:
    """`messages` as a prompt. Raises InputError where the last one is not the user's."""
    if messages[-1]["role"] != "user":
        raise InputError(
            where,
            f"the last message comes from the {messages[-1]['role']}",
            "end the prompt with a user message",
        )
    return tuple(messages)


def prompt_content(value: object, where: str) -> Content:
    """Text as it stands, or messages that end with the user's. Raises InputError."""
    if is_list(value):
        return ending_with_user(check_messages(value, where, "prompt"), where)
    return check_text(value, where, "prompt")


def response_text(value: object, where: str, key: str) -> str:
    """A response, which may be empty. Raises InputError for what is no text."""
    if not isinstance(value, str):
        raise InputError(where, f"{key} is {json_kind(value)}", "make it a string")
    return _encodable(value, where, key)


def split_response(
    messages: list[Message], where: str, key: str
) -> tuple[tuple[Message, ...], str]:
    """(all but the last message, the last one's text). Raises InputError unless that is the
    assistant's."""
    *before, last = messages
    if last["role"] != "assistant":
        raise InputError(
            where,
            f"{key!r} ends with a message of the {last['role']}",
            "a conversation to score ends with the assistant's",
        )
    return tuple(before), last["content"]


def parse_hh(text: str, where: str, key: str) -> list[Message]:
    r"""Parse HH-RLHF text (Bai et al. 2022) into messages; blanks around a turn are dropped.

    Two turns of one speaker in a row stay two messages, as the data has them.
    """
    before, *parts = _HH_TURN.split(text)
    if before.strip() or not parts:
        raise InputError(
            where,
            f"{key!r} does not begin with a Human: or Assistant: turn",
            "set prompts.format: text",
        )
    turns = zip(parts[::2], parts[1::2], strict=True)
    return check_messages(
        [{"role": _HH_ROLES[who], "content": said.strip()} for who, said in turns], where, key
    )


def hh_prompt(text: str, where: str, key: str) -> tuple[Message, ...]:
    """The messages of an HH prompt, without the empty Assistant turn that asks for an answer."""
    messages = parse_hh(text, where, key)
    last = messages[-1]
    if last["role"] == "assistant" and not last["content"]:
        messages.pop()
    return ending_with_user(messages, where)


def shared_prompt(chosen: object, rejected: object, where: str) -> tuple[Message, ...]:
    """What two whole dialogues share, up to the last user turn before their last messages.

    In nearly all HH-RLHF rows they differ in the last answer alone; a few part earlier, and a few
    are the same dialogue twice.
    """
    first, second = _dialogue(chosen, where, "chosen"), _dialogue(rejected, where, "rejected")
    pairs = zip(first[:-1], second[:-1], strict=False)
    shared = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    while shared and shared[-1]["role"] != "user":
        shared.pop()
    if not any(message["content"].strip() for message in shared):
        raise InputError(
            where,
            "'chosen' and 'rejected' share no user turn before their last answers",
            "delete the row, or name a prompt column in prompts.column",
        )
    return tuple(shared)


def _dialogue(value: object, where: str, key: str) -> list[Message]:
    if is_list(value):
        return check_messages(value, where, key)
    return parse_hh(check_text(value, where, key), where, key)


def _encodable(text: str, where: str, key: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate is legal JSON, and no tokenizer can read it
        raise InputError(
            where,
            f"{key!r} holds half of a surrogate pair",
            "fix the text's encoding",
        ) from None
    return text
