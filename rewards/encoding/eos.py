"""Whether a row ends in the tokenizer's EOS: part of what a reward model was trained to read.

TRL's RewardTrainer puts one behind plain text, OpenRLHF behind every conversation, and the score is
read there. A chat template closes the turn itself. It is a setting, never a side effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rewards.types import Eos, Format
from rollout.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["EOS_COUNT", "check_eos", "default_eos", "own_eos", "with_eos", "without_last_newline"]

EOS_COUNT: dict[str, int] = {"none": 0, "single": 1}


def check_eos(eos: str, eos_id: int | None) -> None:
    """Raises `InputError` for an unknown policy, or one that needs an EOS where there is none."""
    if eos not in EOS_COUNT:
        raise InputError(f"eos={eos!r}", "is unknown", f"use one of {', '.join(EOS_COUNT)}")
    if EOS_COUNT[eos] and eos_id is None:
        raise InputError(f"eos={eos!r}", "the tokenizer has no EOS token", 'use eos="none"')


def with_eos(ids: Sequence[int], eos_id: int | None, eos: Eos) -> list[int]:
    """`ids` as they are for "none"; for "single" with exactly one EOS at the end."""
    if eos == "none" or eos_id is None:
        return list(ids)
    end = len(ids)
    while end and ids[end - 1] == eos_id:
        end -= 1
    return [*ids[:end], eos_id]


def without_last_newline(text: str) -> str:
    """A template's text as OpenRLHF closes it: `<|im_end|>\\n` would hide an EOS that is there."""
    return text.rstrip("\n")


def own_eos(tokenizer: PreTrainedTokenizerBase) -> Eos:
    """What the tokenizer does by itself to a plain text: "single" when it puts an EOS behind."""
    eos_id = tokenizer.eos_token_id
    ids = tokenizer("a")["input_ids"]
    return "single" if eos_id is not None and ids[-1:] == [eos_id] else "none"


def default_eos(tokenizer: PreTrainedTokenizerBase, format: Format) -> Eos:
    """One behind plain text, which nothing else closes; templates and "hh_hash" are left alone.

    The published "hh_hash" model was trained without.
    """
    return "single" if format == "plain" and tokenizer.eos_token_id is not None else "none"
