"""Prompts and conversations through the tokenizer's chat template, without losing content.

A template silently omits what it was not written for: tools, tool calls, reasoning, a developer's
or a system message. A part of a conversation that makes no difference to the text is an InputError
here, which names the part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rollout.errors import InputError
from rollout.text.printable import one_line
from rollout.types import Message, with_keys

__all__ = ["TEMPLATE_DATE", "apply_chat_template", "check_template_kwargs"]

# Llama 3.2's template prints today's date, and neither a sample nor a reward may depend on the day.
# This is the date that the template itself falls back to.
TEMPLATE_DATE = datetime(2024, 7, 26)
_OTHER = "other words, which no row has"
_WHERE = "the chat template"
_KWARGS = "chat_template_kwargs"
_SET_HERE = (
    "messages", "conversation", "tools", "documents", "chat_template", "tokenize", "padding",
    "truncation", "max_length", "return_dict", "return_tensors", "tokenizer_kwargs",
    "add_generation_prompt", "continue_final_message", "return_assistant_tokens_mask",
    "date_string", "strftime_now", "tokenizer", "ask",
)  # fmt: skip


def check_template_kwargs(tokenizer: Any, given: Mapping[str, object]) -> None:
    """Check that the tokenizer's chat template reads each variable of `given`.

    Raises InputError for a name that the template does not contain, or that this module sets.
    """
    source = str(tokenizer.chat_template or "")
    for name in given:
        if name in _SET_HERE:
            raise InputError(_KWARGS, f"{name!r} is not to be set", "leave it out")
        if not re.search(rf"\b{re.escape(name)}\b", source):
            what = "has no variable" if source else "is not there, so there is no"
            raise InputError(_KWARGS, f"the chat template {what} {name!r}", "check the name")


def apply_chat_template(
    tokenizer: Any, messages: Sequence[Message], *, ask: bool = False, **settings: object
) -> str:
    """Return the text of a conversation as the tokenizer's chat template writes it.

    Args:
        ask: write a prompt: the text ends where the assistant's message begins, or after the
            beginning of that message where the messages end with one.
        settings: variables of the template (Qwen3's enable_thinking).

    Raises:
        InputError: the template refuses the messages, or omits a part of them.
    """
    try:
        return _applied(_Template(tokenizer, ask, settings), messages)
    except InputError:
        # "developer" is a newer name of the system role, which most templates do not know
        if messages[0]["role"] != "developer":
            raise
        system = [with_keys(messages[0], role="system"), *messages[1:]]
        return _applied(_Template(tokenizer, ask, settings), system)


def _applied(told: _Template, messages: Sequence[Message]) -> str:
    try:
        text = told.text(messages)
    except told.errors as error:
        raise InputError(_WHERE, f"refuses the conversation: {one_line(error)}") from error
    for name, other in _variants(messages, told.source):
        if told.same(text, other):
            raise InputError(
                _WHERE, f"does not write {name}", "use another template, or leave the row out"
            )
    return text


class _Template:
    def __init__(self, tokenizer: Any, ask: bool, settings: dict[str, object]) -> None:
        from jinja2 import TemplateError

        self.errors = (TemplateError, TypeError, KeyError, ValueError)
        self.source = str(tokenizer.chat_template)
        self._tokenizer, self._ask, self._settings = tokenizer, ask, settings

    def text(self, messages: Sequence[Message]) -> str:
        begun = self._ask and messages[-1]["role"] == "assistant"
        turns = [self._turn(message) for message in messages]
        return self._tokenizer.apply_chat_template(
            turns,
            tools=messages[0].get("tools") if messages else None,
            tokenize=False,
            add_generation_prompt=self._ask and not begun,
            continue_final_message=begun,
            date_string=TEMPLATE_DATE.strftime("%d %b %Y"),
            strftime_now=TEMPLATE_DATE.strftime,
            **self._settings,
        )

    def same(self, text: str, messages: Sequence[Message]) -> bool:
        """Return whether `messages` have this text; False where the template refuses them."""
        try:
            return self.text(messages) == text
        except self.errors:
            return False

    def _turn(self, message: Message) -> dict[str, object]:
        turn: dict[str, object] = {key: message[key] for key in message if key != "tools"}
        if "reasoning_content" in turn and "reasoning_content" not in self.source:
            # the names of this key in the templates of gpt-oss and in vLLM
            turn |= dict.fromkeys(("thinking", "reasoning"), turn["reasoning_content"])
        return turn


def _variants(messages: Sequence[Message], source: str) -> list[tuple[str, list[Message]]]:
    """Return the changed conversations that reveal what a template omits.

    Each is (name of a part, the messages without this part or with other words in its place). The
    parts are tools, tool calls, reasoning, and messages that are not the user's or the assistant's.
    """
    found: list[tuple[str, list[Message]]] = []

    def put(at: int, name: str, message: Message) -> None:
        found.append((name, [*messages[:at], message, *messages[at + 1 :]]))

    for at, message in enumerate(messages):
        for key in ("tools", "tool_calls", "reasoning_content"):
            # templates omit the reasoning of earlier turns on purpose
            meant = key == "reasoning_content" and at < len(messages) - 1 and key in source
            if key in message and not meant:
                rest = message.copy()
                del rest[key]
                put(at, f"{key!r} of message {at + 1}", rest)
        if message["role"] not in ("user", "assistant") and message["content"].strip():
            said = f"the {message['role']}'s message {at + 1}"
            put(at, said, with_keys(message, content=_OTHER))
    return found
