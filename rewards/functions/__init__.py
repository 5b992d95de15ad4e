"""Built-in reward functions, each with TRL's signature.

`func(prompts, completions, **columns) -> list[float | None]`: one score per completion, None where
the function does not apply. Settings are keyword-only arguments with one value for all completions;
they are fixed when the reward is built. Wrong settings raise `InputError` even for an empty batch.
"""

from __future__ import annotations

from collections.abc import Callable

from rewards.functions.exact_match import exact_match
from rewards.functions.length import length
from rewards.functions.numeric_match import numeric_match
from rewards.functions.regex import regex
from rewards.functions.word_list import word_list

BUILTINS: dict[str, Callable[..., object]] = {
    "exact_match": exact_match,
    "length": length,
    "numeric_match": numeric_match,
    "regex": regex,
    "word_list": word_list,
}

__all__ = ["BUILTINS", "exact_match", "length", "numeric_match", "regex", "word_list"]
