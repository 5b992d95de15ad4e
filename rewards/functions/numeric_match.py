r"""Reward by comparison with a reference answer, as a number: GSM8K and its kin.

The answer is what follows the last `####`; failing that, the last `\boxed{…}`; failing that, what
the last "the answer is" says; failing that, the last number of the text. GSM8K itself reads
`#### (\-?[0-9\.\,]+)` (openai/grade-school-math, dataset.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from rewards.functions.text import completion_texts, reference_column
from rollout.types import InputError

__all__ = ["numeric_match", "read_number", "reference_number"]

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
    (?:                                 # 3/4 and 1 3/4, but no date and no 24/7/365
        (?<![0-9]/[0-9])(?<![0-9]/[0-9]{2})
        (?:[ ](?P<top>[0-9]+))?/(?P<bottom>0*[1-9][0-9]*)(?![0-9]|[.,/][0-9])
    )?
    """,
    re.VERBOSE,
)
# "the answer is", "answer:"; what it says ends with the line or the sentence
_PHRASE = re.compile(
    r"\banswer(?:\s+is\b|\s*[:=])(?P<said>(?:[^\n.]|[.](?=[0-9]))*)", re.IGNORECASE
)
# sums that such a phrase begins with: what they come to follows
_SUMS = re.compile(r"^(?:[^A-Za-z=]*=)+")
_FRACTION = re.compile(
    r"\\[dt]?frac\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))"
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
    if not 0 <= tolerance < math.inf:
        raise InputError(
            "numeric_match",
            f"tolerance={tolerance!r} must be 0 or more, and finite",
        )
    references = reference_column(columns, column, len(completions))
    return [
        _score(text, reference, column, _exact(str(tolerance)))
        for text, reference in zip(completion_texts(completions), references, strict=True)
    ]


def read_number(text: str) -> Fraction | None:
    """The number that `text` gives as its answer, or None when it gives none.

    `1,000`, `$5`, `5%`, `.5`, `1e3`, `-3`, `3/4`, `1 1/2` and `\\frac{3}{4}` are numbers; a percent
    sign and a unit change nothing.
    """
    for written, plain in _LATEX:
        text = text.replace(written, plain)
    text = _FRACTION.sub(_plain_fraction, text)
    _, marker, tail = text.rpartition(MARKER)
    if marker:
        return _first(tail)
    boxed = _last_boxed(text)
    if boxed is not None:
        return _last(boxed)
    said = _last_said(text)
    return _last(text) if said is None else said


def reference_number(reference: Any, column: str) -> Fraction:
    """The right answer that `column` holds: a number, or a text with one. Raises InputError."""
    if isinstance(reference, bool) or not isinstance(reference, int | float | str | Decimal):
        raise InputError("numeric_match", f"column {column!r} holds {reference!r}: not a number")
    if isinstance(reference, str):
        number = read_number(reference)
    else:
        number = _exact(str(reference)) if Decimal(str(reference)).is_finite() else None
    if number is None:
        raise InputError(
            "numeric_match",
            f"column {column!r} holds {reference!r}: no number in it",
        )
    return number


def _score(text: str, reference: Any, column: str, tolerance: Fraction) -> float | None:
    if reference is None:
        return None
    wanted = reference_number(reference, column)
    given = read_number(text)
    return 0.0 if given is None else float(abs(given - wanted) <= tolerance)


def _exact(digits: str) -> Fraction:
    # by way of Decimal: int() refuses texts of more than 4300 digits
    return Fraction(Decimal(digits))


def _number(match: re.Match[str]) -> Fraction:
    number = _exact(match["digits"].replace(",", "") + (match["exponent"] or ""))
    if match["bottom"] is not None:
        bottom = _exact(match["bottom"])
        part = number if match["top"] is None else _exact(match["top"])
        mixed = match["top"] is not None and part < bottom
        number = (number if mixed else 0) + part / bottom
    return -number if match["minus"] or match["inner"] else number


def _plain_fraction(match: re.Match[str]) -> str:
    top, bottom = match[1] or match[2], match[3] or match[4]
    # a whole number before it is a part of it: 1\\frac{1}{2}
    whole = match.string[: match.start()][-1:].isdecimal()
    return f"{' ' if whole else ''}{top}/{bottom}"


def _first(text: str) -> Fraction | None:
    match = _NUMBER.search(text)
    return None if match is None else _number(match)


def _last(text: str) -> Fraction | None:
    last = None
    for match in _NUMBER.finditer(text):
        last = match
    return None if last is None else _number(last)


def _last_said(text: str) -> Fraction | None:
    """The number in the last phrase that has one: of "the answer is 2 + 3 = 5 eggs", 5."""
    said = [match["said"] for match in _PHRASE.finditer(text)]
    found = (_first(_SUMS.sub("", one)) for one in reversed(said))
    return next((number for number in found if number is not None), None)


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
