"""When two prompts count as the same: their words, without case, punctuation and spacing."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from rollout.types import Message

__all__ = ["first_turn", "prompt_text", "prompt_words", "same_prompt_key"]

# CJK is written without spaces: each sign is a word. An operator before a digit is no punctuation:
# 3 - 4 and 3 * 4 are two questions.
_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(
    rf"(?P<word>[{_CJK}]|[^\W_{_CJK}]+|[-*/%](?=\s*\d))|(?P<sign>[^\w\s])",
)


def prompt_words(text: str) -> list[str]:
    """The words of a text, case folded; symbols (+, =, $, emoji) are words, punctuation is none.

    A text of punctuation alone is one word, itself.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = [
        match.group()
        for match in _TOKEN.finditer(folded)
        if match.lastgroup == "word" or not _is_punctuation(match.group())
    ]
    return words or [text.strip()]


def prompt_text(prompt: str | Sequence[Message]) -> str:
    """What was asked, as one text: all turns but the system's, which say nothing of a question."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(turn["content"] for turn in prompt if turn["role"] != "system")


def first_turn(prompt: str | Sequence[Message]) -> str:
    """The first user turn; the whole text of a prompt that has none."""
    if isinstance(prompt, str):
        return prompt
    turns = (turn["content"] for turn in prompt if turn["role"] == "user")
    return next(turns, prompt_text(prompt))


def same_prompt_key(text: str) -> str:
    """Equal for texts that count as the same."""
    return " ".join(prompt_words(text))


@lru_cache(maxsize=4096)
def _is_punctuation(char: str) -> bool:
    return unicodedata.category(char)[0] in "PZC"
