r"""Reward by comparison with a reference answer, as a number: GSM8K and its kin.

The answer is what follows the last `####`; failing that, the last `\boxed{…}`; failing that, the
last number of the text. GSM8K itself reads `#### (\-?[0-9\.\,]+)`
(openai/grade-school-math, dataset.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from rewards.functions.text import completion_texts, reference_column
from rollout.types import InputError

__all__ = ["numeric_match", "read_number"]

MARKER = "####"
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
# a minus after a word or a closing bracket subtracts: "16-3" ends in 3, "(2)-3" too
_NUMBER = re.compile(
    r"""
    (?:(?<![\w)\]%])(?P<minus>[-−]))?   # sign before the currency
    (?:[$€£¥])?
    (?P<inner>(?<=[$€£¥])[-−])?         # or after it
    (?<![^\W_])(?<![0-9][.])            # not inside a name (x2) or a version (1.2.3)
    (?P<digits>
        [0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:[.][0-9]+)?
      | [0-9]+(?:[.][0-9]+)?
      | (?<![.])[.][0-9]+
    )
    (?P<exponent>[eE][-+]?[0-9]{1,2}(?![\w]))?
    """,
    re.VERBOSE,
)
# thin spaces and protected commas that LaTeX puts into long numbers, and escaped signs
_LATEX = (("{,}", ","), (r"\!", ""), (r"\,", ""), (r"\$", "$"), (r"\%", "%"))


def numeric_match(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    *,
    column: str = "answer",
    tolerance: float = 0.0,
    **columns: Any,
) -> list[float | None]:
    """1.0 where the response's number is the reference's, else 0.0; None without a reference.

    A response without a number scores 0.0. `tolerance` is the absolute difference still accepted.
    Raises `InputError` when no row has the column, or a reference holds no number.
    """
    if not tolerance >= 0:
        raise InputError(f"numeric_match: tolerance={tolerance!r} must be 0 or more")
    references = reference_column(columns, column, len(completions))
    return [
        _score(text, reference, column, Decimal(str(tolerance)))
        for text, reference in zip(completion_texts(completions), references, strict=True)
    ]


def read_number(text: str) -> Decimal | None:
    """The number that `text` gives as its answer, or None when it gives none."""
    for written, plain in _LATEX:
        text = text.replace(written, plain)
    _, marker, tail = text.rpartition(MARKER)
    if marker:
        return _first(tail)
    boxed = _last_boxed(text)
    return _last(text if boxed is None else boxed)


def _score(text: str, reference: Any, column: str, tolerance: Decimal) -> float | None:
    if reference is None:
        return None
    wanted = _reference_number(reference, column)
    given = read_number(text)
    if given is None:
        return 0.0
    same = given == wanted if tolerance == 0 else abs(given - wanted) <= tolerance
    return float(same)


def _reference_number(reference: Any, column: str) -> Decimal:
    if isinstance(reference, bool) or not isinstance(reference, int | float | str | Decimal):
        raise InputError(f"numeric_match: column {column!r} holds {reference!r}: not a number")
    number = read_number(reference) if isinstance(reference, str) else Decimal(str(reference))
    if number is None or not number.is_finite():
        raise InputError(f"numeric_match: column {column!r} holds {reference!r}: no number in it")
    return number


def _number(match: re.Match[str]) -> Decimal:
    digits = match["digits"].replace(",", "") + (match["exponent"] or "")
    try:
        number = Decimal(digits)
    except InvalidOperation as error:
        raise ValueError(f"cannot read {match[0]!r} as a number") from error
    # unary minus would round to the context's precision
    return number.copy_negate() if match["minus"] or match["inner"] else number


def _first(text: str) -> Decimal | None:
    match = _NUMBER.search(text)
    return None if match is None else _number(match)


def _last(text: str) -> Decimal | None:
    last = None
    for match in _NUMBER.finditer(text):
        last = match
    return None if last is None else _number(last)


def _last_boxed(text: str) -> str | None:
    """The content of the last box, braces balanced; an unclosed box ends with the text."""
    start = None
    for match in _BOXED.finditer(text):
        start = match.end()
    if start is None:
        return None
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end]
    return text[start:]
