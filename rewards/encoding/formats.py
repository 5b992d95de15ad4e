"""Turn a conversation into the text that a reward model reads.

- "chat": the tokenizer's own chat template, without a generation prompt.
- "hh_hash": `###Human: U###Assistant: A`, as weqweasdas/hh_rlhf_rm_open_llama_3b and LMFlow's RAFT
  use. "hh" is its old name: records, configs and scored files of earlier versions have it.
- "plain": the contents one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, get_args

from rewards.types import Format
from rollout.types import InputError, Message

__all__ = ["FORMATS", "Rendered", "Scorable", "Turns", "check_format", "render"]

Turns = Sequence[Message] | Sequence[Mapping[str, str]]
Scorable = Turns | str
FORMATS: tuple[Format, ...] = get_args(Format)
_HH_HASH = ("hh_hash", "hh")

# Llama 3.2's template prints today's date, and a reward must not depend on the day it is computed.
# This is the date that the template itself falls back to.
TEMPLATE_DATE = datetime(2024, 7, 26)
HH_NAMES = {"user": "###Human: ", "assistant": "###Assistant: "}


def check_format(format: str) -> None:
    """Raises `InputError` for an unknown format."""
    if format not in FORMATS:
        raise InputError(f"format={format!r}", "is unknown", f"use one of {', '.join(FORMATS)}")


def render(conversation: Scorable, format: Format, tokenizer: Any, separator: str = "") -> str:
    """The text of one conversation, or of one plain text that is scored as it stands.

    `separator` goes between the messages of "hh_hash". Raises `InputError` when the conversation
    does not end with the assistant, or its roles do not fit the format.
    """
    if isinstance(conversation, str):
        return _render_text(conversation, format)
    if not conversation or conversation[-1]["role"] != "assistant":
        raise InputError("conversation", "its last message must be the assistant's response")
    if format == "chat":
        return _render_chat(conversation, tokenizer)
    if format in _HH_HASH:
        return _render_hh(conversation, separator)
    return "".join(message["content"] for message in conversation)


class Rendered(str):
    """A text that the chat template has been applied to already."""

    __slots__ = ()


def _render_text(text: str, format: Format) -> str:
    if isinstance(text, Rendered):
        return text
    if format == "chat":
        raise InputError('format="chat"', "a plain text has no messages to render", "give messages")
    return hh_literal(text) if format in _HH_HASH else text


def _render_chat(conversation: Turns, tokenizer: Any) -> str:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in conversation],
            tokenize=False,
            add_generation_prompt=False,
            date_string=TEMPLATE_DATE.strftime("%d %b %Y"),
            strftime_now=TEMPLATE_DATE.strftime,
        )
    except (TemplateError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise InputError("the chat template", f"refuses the conversation: {reason}") from error


def _render_hh(conversation: Turns, separator: str) -> str:
    if _is_hh_text(conversation):
        prompt, response = conversation[0]["content"], conversation[1]["content"]
        # HH texts have one space after the colon; many samplers strip it from the response
        space = "" if prompt[-1:].isspace() or response[:1].isspace() else " "
        return hh_literal(prompt + space + response)
    return separator.join(
        _hh_name(message["role"]) + message["content"] for message in conversation
    )


def _is_hh_text(conversation: Turns) -> bool:
    """Is this one plain HH prompt, `\\n\\nHuman: …\\n\\nAssistant:`, and its continuation?"""
    roles = [message["role"] for message in conversation]
    if roles != ["user", "assistant"]:
        return False
    prompt = conversation[0]["content"]
    return "\n\nHuman:" in prompt and prompt.rstrip().endswith("\n\nAssistant:")


def _hh_name(role: str) -> str:
    if role not in HH_NAMES:
        raise InputError('format="hh_hash"', f"has no role {role!r}: it knows user and assistant")
    return HH_NAMES[role]


def hh_literal(text: str) -> str:
    """The replacement on the card of weqweasdas/hh_rlhf_rm_open_llama_3b, letter for letter."""
    return text.replace("\n\nHuman", "###Human").replace("\n\nAssistant", "###Assistant")
