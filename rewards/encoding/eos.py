"""Whether a row ends in the tokenizer's EOS: part of what a reward model was trained to read.

TRL's RewardTrainer puts an EOS behind plain text, OpenRLHF behind every conversation, and the score
is read there. A chat template closes the turn itself. So the EOS is a setting, never a side effect.
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
    """Check an EOS setting.

    Raises `InputError` for an unknown one, or for "single" where the tokenizer has no EOS.
    """
    if eos not in EOS_COUNT:
        raise InputError(f"eos={eos!r}", "is unknown", f"use one of {', '.join(EOS_COUNT)}")
    if EOS_COUNT[eos] and eos_id is None:
        raise InputError(f"eos={eos!r}", "the tokenizer has no EOS token", 'use eos="none"')


def with_eos(ids: Sequence[int], eos_id: int | None, eos: Eos) -> list[int]:
    """Return `ids` as they are for "none"; for "single", with exactly one EOS at the end."""
    if eos == "none" or eos_id is None:
        return list(ids)
    end = len(ids)
    while end and ids[end - 1] == eos_id:
        end -= 1
    return [*ids[:end], eos_id]


def without_last_newline(text: str) -> str:
    """Return a template's text without newlines at its end, as OpenRLHF does.

    The newline of `<|im_end|>\\n` would hide that the text ends in an EOS already.
    """
    return text.rstrip("\n")


def own_eos(tokenizer: PreTrainedTokenizerBase) -> Eos:
    """Return "single" when the tokenizer puts an EOS behind a plain text, else "none"."""
    eos_id = tokenizer.eos_token_id
    ids = tokenizer("a")["input_ids"]
    return "single" if eos_id is not None and ids[-1:] == [eos_id] else "none"


def default_eos(tokenizer: PreTrainedTokenizerBase, format: Format) -> Eos:
    """Return "single" for plain text, which nothing else closes, and "none" for other formats.

    Templates close their turns, and the published "hh_hash" model was trained without an EOS.
    Return "none" also where the tokenizer has no EOS.
    """
    return "single" if format == "plain" and tokenizer.eos_token_id is not None else "none"
