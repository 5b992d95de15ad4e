"""Llama 3's tokenizer as ArmoRM needs it: conversations end with the token that closes a response.

Llama 3's first template puts the header of a next answer behind every conversation. Rewards would
be read there, and the gate would be the end of the response.
"""

from __future__ import annotations

import logging
from typing import Any

from rewards.formats import render
from rewards.heads.gating import EOT, HEADER, Gate
from rewards.types import RewardError
from rollout.types import InputError, Message

__all__ = ["gated_tokenizer"]

log = logging.getLogger("rewards")

_PROBE = [Message(role="user", content="a"), Message(role="assistant", content="b")]


def gated_tokenizer(tokenizer: Any, gate: Gate, format: str | None, name: str) -> Any:
    """`tokenizer`, without the header where its template always adds one.

    Raises `InputError` for another `format` than "chat", and for a template in whose conversations
    `gate` is not found or that does not render responses as Llama 3's does.
    """
    if format not in (None, "chat"):
        raise InputError(f'{name}: ArmoRM needs format="chat" to find its gate, not {format!r}')
    if not tokenizer.chat_template:
        raise InputError(f"{name}: its tokenizer has no chat template: copy Llama 3's to it")
    text = render(_PROBE, "chat", tokenizer)
    if text.endswith(EOT + HEADER):
        log.warning("%s: its chat template always adds an assistant header: left out", name)
        tokenizer, text = _WithoutHeader(tokenizer), text.removesuffix(HEADER)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    try:
        gate.find(ids, "a conversation")
    except RewardError as error:
        raise InputError(f"{name}: its chat template does not suit ArmoRM: {error}") from error
    if not text.endswith(f"{EOT}{HEADER}{_PROBE[-1]['content']}{EOT}"):
        raise InputError(f"{name}: its chat template does not render responses as Llama 3's does")
    return tokenizer


class _WithoutHeader:
    """A tokenizer whose template's unconditional assistant header is taken off again."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copying and pickling ask before there is a tokenizer
            raise AttributeError(name)
        return getattr(self._tokenizer, name)

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return self._tokenizer(*arguments, **settings)

    def apply_chat_template(self, *arguments: Any, **settings: Any) -> str:
        return self._tokenizer.apply_chat_template(*arguments, **settings).removesuffix(HEADER)
