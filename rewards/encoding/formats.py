r"""Turn a conversation into the text that a reward model reads.

- "chat": the tokenizer's own chat template, without a generation prompt.
- "hh_hash": `###Human: U###Assistant: A`, as weqweasdas/hh_rlhf_rm_open_llama_3b and LMFlow's RAFT
  use. "hh" is its old name: records, configs and scored files of earlier versions have it.
- "plain": the contents one after the other.
- "ultrarm": `Human: U\n\nAssistant: A`, as on the card of openbmb/UltraRM-13b.
- "beaver": `BEGINNING OF CONVERSATION: USER: U ASSISTANT:A`, as PKU-Alignment/safe-rlhf trains: an
  EOS after each earlier response (the setting `eos` decides on one after the last).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from rewards.types import Format
from rollout.data.messages import checked_conversation
from rollout.text.chat import apply_chat_template
from rollout.types import InputError, Message

__all__ = [
    "FORMATS", "Rendered", "Scorable", "Turns", "check_format", "name_conversations", "render",
]  # fmt: skip

Turns = Sequence[Message] | Sequence[Mapping[str, object]]
Scorable = Turns | str
FORMATS: tuple[Format, ...] = get_args(Format)
_HH_HASH = ("hh_hash", "hh")
_MARKED = ("ultrarm", "beaver")
HH_NAMES = {"user": "###Human: ", "assistant": "###Assistant: "}


def check_format(format: str) -> None:
    """Check the name of a format. Raises `InputError` for an unknown one."""
    if format not in FORMATS:
        raise InputError(f"format={format!r}", "is unknown", f"use one of {', '.join(FORMATS)}")


def name_conversations(conversations: Sequence[Scorable]) -> list[str]:
    """Return `conversation 0`, `conversation 1`, …, which error messages call the conversations.

    Raises `InputError` for what is no list of conversations: rows of a file, a conversation alone,
    a text alone.
    """
    if isinstance(conversations, str):
        raise InputError("conversations", "are one text", "give a list of conversations")
    names = [f"conversation {index}" for index in range(len(conversations))]
    for name, one in zip(names, conversations, strict=True):
        if isinstance(one, Mapping):
            held = ", ".join(map(repr, one))
            if "role" in one or "from" in one:
                fix = "give a list of conversations, each a list of messages"
                raise InputError(name, "is one message", fix)
            raise InputError(
                name,
                f"is a row with {held}",
                'give its messages, [{"role": "user", "content": …}, {"role": "assistant", '
                '"content": …}], or score the rows by raft.score(rows, reward)',
            )
    return names


def render(
    conversation: Scorable,
    format: Format,
    tokenizer: Any,
    separator: str = "",
    chat_template_kwargs: Mapping[str, object] | None = None,
) -> str:
    """Return the text of one conversation, or of one plain text that is scored as it stands.

    `separator` goes between the messages of "hh_hash", `chat_template_kwargs` are variables of the
    chat template. Raises `InputError` when the conversation does not end with the assistant, its
    roles do not fit the format, or the format has no form for its tools or reasoning.
    """
    if isinstance(conversation, str):
        return _render_text(conversation, format)
    turns = checked_conversation(conversation, "conversation")
    if not turns or turns[-1]["role"] != "assistant":
        raise InputError("conversation", "its last message must be the assistant's response")
    if format == "chat":
        return apply_chat_template(tokenizer, turns, ask=False, **(chat_template_kwargs or {}))
    for key in ("tools", "tool_calls", "reasoning_content"):
        if any(key in turn for turn in turns):
            raise InputError(f'format="{format}"', f"has no form for {key!r}", 'use "chat"')
    if format in _HH_HASH:
        return _render_hh(turns, separator)
    if format in _MARKED:
        return _render_marked(turns, format, tokenizer)
    return "".join(turn["content"] for turn in turns)


class Rendered(str):
    """A text that the chat template has been applied to already."""

    __slots__ = ()


def _render_text(text: str, format: Format) -> str:
    if isinstance(text, Rendered):
        return text
    if format == "chat":
        raise InputError('format="chat"', "a plain text has no messages to render", "give messages")
    return hh_literal(text) if format in _HH_HASH else text


def _render_hh(conversation: Sequence[Message], separator: str) -> str:
    if _is_hh_text(conversation):
        prompt, response = conversation[0]["content"], conversation[1]["content"]
        # HH texts have one space after the colon; many samplers strip it from the response
        space = "" if prompt[-1:].isspace() or response[:1].isspace() else " "
        return hh_literal(prompt + space + response)
    return separator.join(
        _hh_name(message["role"]) + message["content"] for message in conversation
    )


def _is_hh_text(conversation: Sequence[Message]) -> bool:
    """Return whether this is one HH prompt, `\\n\\nHuman: …\\n\\nAssistant:`, and its response."""
    roles = [message["role"] for message in conversation]
    if roles != ["user", "assistant"]:
        return False
    prompt = conversation[0]["content"]
    return "\n\nHuman:" in prompt and prompt.rstrip().endswith("\n\nAssistant:")


def _render_marked(turns: Sequence[Message], format: str, tokenizer: Any) -> str:
    if any(turn["role"] != ("user", "assistant")[at % 2] for at, turn in enumerate(turns)):
        roles = ", ".join(turn["role"] for turn in turns)
        raise InputError(
            f'format="{format}"', f"has user and assistant in turn alone, and not {roles}"
        )
    pairs = [(a["content"], b["content"]) for a, b in zip(turns[::2], turns[1::2], strict=True)]
    if format == "ultrarm":
        return "\n\n".join(f"Human: {asked}\n\nAssistant: {said}" for asked, said in pairs)
    end = getattr(tokenizer, "eos_token", None) or "</s>"
    return "BEGINNING OF CONVERSATION: " + end.join(
        f"USER: {asked} ASSISTANT:{said}" for asked, said in pairs
    )


def _hh_name(role: str) -> str:
    if role not in HH_NAMES:
        raise InputError('format="hh_hash"', f"has no role {role!r}: it knows user and assistant")
    return HH_NAMES[role]


def hh_literal(text: str) -> str:
    """Return `text` with HH's names of the roles replaced by those of "hh_hash".

    The replacement is that on the card of weqweasdas/hh_rlhf_rm_open_llama_3b, letter for letter.
    """
    return text.replace("\n\nHuman", "###Human").replace("\n\nAssistant", "###Assistant")
