"""Reward by pattern: does the response have the form that was asked for?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from rewards.functions.text import completion_texts
from rollout.types import InputError

MODES = ("search", "fullmatch", "count")


def regex(
    prompts: Sequence[object],
    completions: Sequence[object],
    *,
    pattern: str | None = None,
    mode: str = "search",
    ignore_case: bool = False,
    multiline: bool = False,
    dotall: bool = False,
    **columns: object,
) -> list[float]:
    """Return 1.0 where `pattern` is found ("search") or is the whole text ("fullmatch"), else 0.0.

    Mode "count" gives the number of non-overlapping matches. Raises `InputError` for a pattern that
    is missing or does not compile, or for an unknown mode.
    """
    if mode not in MODES:
        raise InputError("regex", f"mode={mode!r} is unknown", f"use one of {', '.join(MODES)}")
    compiled = _compile(pattern, _flags(ignore_case, multiline, dotall))
    return [_score(compiled, mode, text) for text in completion_texts(completions)]


def _flags(ignore_case: bool, multiline: bool, dotall: bool) -> int:
    chosen = re.NOFLAG
    chosen |= re.IGNORECASE if ignore_case else re.NOFLAG
    chosen |= re.MULTILINE if multiline else re.NOFLAG
    chosen |= re.DOTALL if dotall else re.NOFLAG
    return int(chosen)


@lru_cache(maxsize=64)
def _compile(pattern: str | None, flags: int) -> re.Pattern[str]:
    if not isinstance(pattern, str):
        raise InputError("regex", "the setting 'pattern' is missing", "give a regular expression")
    try:
        return re.compile(pattern, flags)
    except re.error as error:
        raise InputError("regex", f"pattern {pattern!r} does not compile: {error}") from error


def _score(pattern: re.Pattern[str], mode: str, text: str) -> float:
    if mode == "count":
        return float(sum(1 for _ in pattern.finditer(text)))
    found = pattern.fullmatch(text) if mode == "fullmatch" else pattern.search(text)
    return 1.0 if found else 0.0
