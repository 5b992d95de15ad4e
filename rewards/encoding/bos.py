"""How many BOS tokens a reward model was trained to read, as a setting of token ids alone.

Chat templates render a BOS and tokenizers add another one, so `<s><s>` happens by accident. Some
models were trained on it and need it, most were not: it is a setting, never a side effect.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rewards.encoding.formats import render
from rewards.types import Bos, Format
from rollout.types import InputError, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "BOS_COUNT", "check_bos", "counted_bos", "default_bos", "grm_bos", "own_bos", "with_bos",
]  # fmt: skip

log = logging.getLogger("rewards")

BOS_COUNT: dict[str, int] = {"none": 0, "single": 1, "double": 2}
_PROBE = [Message(role="user", content="a"), Message(role="assistant", content="b")]


def check_bos(bos: str, bos_id: int | None) -> None:
    """Check a number of BOS tokens.

    Raises `InputError` for an unknown one, or for one above 0 where the tokenizer has no BOS.
    """
    if bos not in BOS_COUNT:
        raise InputError(f"bos={bos!r}", "is unknown", f"use one of {', '.join(BOS_COUNT)}")
    if BOS_COUNT[bos] and bos_id is None:
        raise InputError(f"bos={bos!r}", "the tokenizer has no BOS token", 'use bos="none"')


def with_bos(ids: Sequence[int], bos_id: int | None, bos: Bos) -> list[int]:
    """Return `ids` with exactly 0, 1 or 2 BOS in front, however many there were."""
    start = 0
    while bos_id is not None and start < len(ids) and ids[start] == bos_id:
        start += 1
    front = [] if bos_id is None else [bos_id] * BOS_COUNT[bos]
    return [*front, *ids[start:]]


def own_bos(tokenizer: PreTrainedTokenizerBase) -> Bos:
    """Return "single" when the tokenizer puts a BOS in front of a plain text, else "none"."""
    bos_id = tokenizer.bos_token_id
    ids = tokenizer("a")["input_ids"]
    return "single" if bos_id is not None and ids[:1] == [bos_id] else "none"


def default_bos(tokenizer: PreTrainedTokenizerBase, format: Format) -> Bos:
    """Return "single" when the tokenizer or its chat template (format "chat") adds a BOS.

    Return "none" when neither does; a BOS that both add still counts once.
    """
    if own_bos(tokenizer) == "single" or format != "chat" or tokenizer.bos_token_id is None:
        return own_bos(tokenizer)
    ids = tokenizer(render(_PROBE, format, tokenizer), add_special_tokens=False)["input_ids"]
    return "single" if ids[:1] == [tokenizer.bos_token_id] else "none"


def counted_bos(tokenizer: PreTrainedTokenizerBase, format: Format, *, special: bool) -> Bos:
    """Return how many BOS tokenising a rendered text yields; more than two count as two.

    `special` says whether the tokenizer adds its own. OpenRLHF's code lets it add none, GRM's does:
    there the template's BOS and the tokenizer's make two.
    """
    ids = tokenizer(render(_PROBE, format, tokenizer), add_special_tokens=special)["input_ids"]
    count = next((n for n, id in enumerate(ids) if id != tokenizer.bos_token_id), len(ids))
    return "none" if not count else "single" if count == 1 else "double"


def grm_bos(tokenizer: PreTrainedTokenizerBase, format: Format | None, name: str) -> Bos | None:
    """Return how many BOS GRM's code reads: it lets the tokenizer add its own to rendered text.

    Return None, which leaves the setting open, where nothing is rendered by a template.
    """
    if format not in (None, "chat") or not tokenizer.chat_template:
        return None
    bos = counted_bos(tokenizer, "chat", special=True)
    log.info("%s: bos=\"%s\", as GRM was trained: the template's and the tokenizer's", name, bos)
    return bos
