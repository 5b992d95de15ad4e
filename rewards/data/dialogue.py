r"""Read the messages of a column, compare two conversations, and tell prompts that are the same.

A column holds a message list, or `\n\nHuman: …\n\nAssistant: …` text. Prompts are the same where
their words are: case, punctuation and spacing do not count.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from rewards.data.record import DivergingPrompts, Record, Refusal
from rollout.data.messages import begins_with_hh_turn, check_messages, parse_hh
from rollout.types import Message

__all__ = [
    "Sides",
    "assistant",
    "first_turn",
    "is_hh",
    "messages",
    "prompt_text",
    "prompt_words",
    "same_prompt_key",
    "sides",
    "user",
]

# the shared prompt, the chosen and the rejected response
Sides = tuple[tuple[Message, ...], Message, Message]


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


def is_hh(value: object) -> bool:
    return isinstance(value, str) and begins_with_hh_turn(value)


def messages(record: Record, value: object, name: str) -> list[Message]:
    """Return the checked messages of a list or of HH-RLHF text, without blanks around HH turns.

    Raises InputError for anything else, with the row's place.
    """
    if isinstance(value, str):
        return parse_hh(value, record.where, name)
    return check_messages(value, record.where, name)


def sides(
    chosen: Sequence[Message], rejected: Sequence[Message], diverging: DivergingPrompts = "drop"
) -> Sides | Refusal:
    """Return (prompt, chosen response, rejected response) of two whole conversations.

    Conversations that differ before their last responses have different prompts: they give a
    `Refusal`, or with diverging="truncate" are compared at the responses where they differ first.
    """
    if list(chosen) == list(rejected):
        return Refusal("identical sides")
    if not chosen or not rejected:
        return Refusal("empty conversation")
    if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        return Refusal("last message not the assistant's")
    shared = _shared(chosen, rejected)
    if not any(message["role"] == "user" for message in chosen[:shared]):
        return Refusal("no shared prompt")
    if not len(chosen) == len(rejected) == shared + 1:
        # where one conversation is the beginning of the other, it has no response to compare
        ends = shared >= min(len(chosen), len(rejected))
        if diverging != "truncate" or ends:
            return Refusal("conversations differ before the last response")
        if not chosen[shared]["role"] == rejected[shared]["role"] == "assistant":
            return Refusal("conversations differ at a user turn")
    prompt = tuple(chosen[:shared])
    return prompt, chosen[shared], rejected[shared]


def _shared(first: Sequence[Message], second: Sequence[Message]) -> int:
    """Return how many messages two conversations share from their beginning."""
    for at, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return at
    return min(len(first), len(second))


# CJK is written without spaces: each character is a word. An operator before a digit is a word,
# not punctuation: 3 - 4 and 3 * 4 are two questions.
_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(
    rf"(?P<word>[{_CJK}]|[^\W_{_CJK}]+|[-*/%](?=\s*\d))|(?P<sign>[^\w\s])",
)


def prompt_words(text: str) -> list[str]:
    """Return a text's words, case folded; symbols (+, =, $, emoji) are words, punctuation is not.

    A text without any word, such as "?!", gives itself as its one word.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = [
        match.group()
        for match in _TOKEN.finditer(folded)
        if match.lastgroup == "word" or not _is_punctuation(match.group())
    ]
    return words or [text.strip()]


def prompt_text(prompt: str | Sequence[Message]) -> str:
    """Return the text of all turns but the system's, which are not part of the question."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(turn["content"] for turn in prompt if turn["role"] != "system")


def first_turn(prompt: str | Sequence[Message]) -> str:
    """Return the first user turn, or the whole text of a prompt that has none."""
    if isinstance(prompt, str):
        return prompt
    turns = (turn["content"] for turn in prompt if turn["role"] == "user")
    return next(turns, prompt_text(prompt))


def same_prompt_key(text: str) -> str:
    """Return a key that is equal for texts of the same words, as `prompt_words` finds them."""
    return " ".join(prompt_words(text))


@lru_cache(maxsize=4096)
def _is_punctuation(char: str) -> bool:
    return unicodedata.category(char)[0] in "PZC"
