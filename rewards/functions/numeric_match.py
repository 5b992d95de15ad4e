r"""Reward by comparison with a reference answer, as a number: GSM8K, MATH and their kin.

The answer of a response is, in this order, and only where it holds a number:

1. what the last `#### 42` says. GSM8K reads `#### (\-?[0-9\.\,]+)` (openai/grade-school-math,
   dataset.py); a heading such as `#### Step 2` or `#### 1. Add` is none;
2. the last `\boxed{…}`, which has to be a number as a whole: `\boxed{7\pi}` is not 7;
3. what the last "the answer is" says;
4. the last number of the text, where there is neither a box nor text after a `####`.
"""

from __future__ import annotations

import logging
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction

from rewards.functions.text import completion_texts, reference_column
from rollout.types import InputError

__all__ = ["numeric_match", "read_number", "read_reference"]

log = logging.getLogger("rewards")

# letters of scripts with upper and lower case: "x2" is a name, while Chinese, Japanese, Korean and
# Thai write numbers directly behind words
_CASED = "A-Za-zÀ-ÖØ-öø-ɏͰ-ϿЀ-ԯԱ-և"
# a minus after a word or a closing bracket subtracts: "16-3" ends in 3, "(2)-3" too
_NUMBER = re.compile(
    rf"""
    (?:(?<![\w)\]%])(?P<minus>[-−]))?   # sign before the currency
    (?:[$€£¥])?
    (?P<inner>(?<=[$€£¥])[-−])?         # or after it
    (?<![{_CASED}0-9])(?<![0-9][.])     # not inside a name (x2) or a version (1.2.3)
    (?<!\^)(?<!\^\{{)                   # no exponent of something that is no number
    (?P<digits>
        [0-9]{{1,3}}(?:,[0-9]{{3}})+(?![0-9])(?:[.][0-9]+)?
      | [0-9]+(?:[.][0-9]+)?
      | (?<![.])[.][0-9]+
    )
    (?P<exponent>[eE][-+]?[0-9]{{1,3}}(?![{_CASED}0-9_]))?
    (?:                                 # 3/4 and 1 3/4, but no date and no 24/7/365
        (?<![0-9]/[0-9])(?<![0-9]/[0-9]{{2}})
        (?:[ ](?P<top>[0-9]+))?/(?P<bottom>0*[1-9][0-9]*)(?![0-9]|[.,/][0-9])
    )?
    """,
    re.VERBOSE,
)
# exactly four: five and more are decoration
_MARKER = re.compile(r"(?<!#)####(?!#)")
# what may stand between a marker and its number
_DECORATION = r"[\s*_`$(\[{\\:]*"
# "1. Add the apples": the number of a heading
_HEADING = re.compile(r"[.):]\s+\S")
_MOST_WORDS = 6  # behind the number of an answer: more are the sentence of a heading
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
# "the answer is", "answer:", "答案是"; what it says ends with the line or the sentence
_PHRASE = re.compile(
    r"(?:\banswer(?:\s+is\b|\s*[:=])|(?:答案|答え|答)\s*(?:是|为|為|は|[:=]))"
    r"(?P<said>(?:[^\n.。]|[.](?=[0-9]))*)",
    re.IGNORECASE,
)
# sums that an answer begins with; their results follow
_SUMS = re.compile(r"^(?:[^A-Za-z=]*=)+")
_RESULT = re.compile(r"=|≈|≃|\\approx(?![a-z])")
# "x = 3, y = 4" are two answers
_MANY = re.compile(rf",\s*[{_CASED}]")
_SPACED_MINUS = re.compile(rf"^({_DECORATION})[-−]\s+(?=[$€£¥]?[.]?[0-9])")

# LaTeX, in the order in which it is made plain
_SIGNS = (("{,}", ","), (r"\!", ""), (r"\,", ""), (r"\$", "$"), (r"\%", "%"))
_FACES = re.compile(
    r"\\(?:mathbf|mathit|mathsf|boldsymbol|bm|textbf|textit|emph)\s*\{([^{}]*)\}"
    r"|\\(?:left|right|displaystyle|quad|qquad|;|:)(?![a-z])"
)
_WORDS = re.compile(r"\\(?:text|mathrm|mbox|textrm|operatorname)\s*\{([^{}]*)\}(\^\{?[-−]?\w\}?)?")
_DEGREES = re.compile(r"\^?\{?\\(?:circ|degree)\}?|°")
_SIGNED = r"([-−]?)\s*([0-9][0-9,]*(?:\.[0-9]+)?)"
_FRACTION = re.compile(
    rf"([-−]?)\\[dtc]?frac\s*(?:\{{\s*{_SIGNED}\s*\}}|([0-9]))\s*(?:\{{\s*{_SIGNED}\s*\}}|([0-9]))"
)
_SCIENTIFIC = re.compile(
    r"(?<=[0-9])\s*(?:\\times|\\cdot|[×·*])\s*10\s*\^\s*"
    r"(?:\{\s*([-−+]?[0-9]{1,3})\s*\}|([-−+]?[0-9]{1,3}))(?![0-9])"
)
_POWER = re.compile(rf"(?<![{_CASED}0-9.^_)}}])([0-9]+)\s*\^\s*\{{?\s*([-−]?[0-9]{{1,2}})\}}?")
# "42 cm^2": the exponent of a unit is no number
_UNIT_EXPONENT = re.compile(rf"(?<=[{_CASED}])\^\s*\{{?\s*[-−]?[0-9]+\s*\}}?")
# what may stand before a number that is an answer as a whole: "about 5"
_LEAD = re.compile(r"[\s*_`$(\[{~]*(?:[^\W\d_]{2,}\s+)*")
_LABEL = re.compile(rf"\s*[{_CASED} ]{{1,20}}:\s+")
_WORD = re.compile(rf"(?<![\\\w])[{_CASED}]{{2,}}")
# behind a number that is an answer as a whole: words, units, a percent sign; not "4a" or "7\\pi"
_UNIT = re.compile(
    rf"[\s~]*%?(?:(?:[{_CASED}]{{2,}}|[^\W0-9_{_CASED}]+|(?<=[\s/])[mgshltLNJWVAKCF])[²³]?[\s./~]*)*"
)


def numeric_match(
    prompts: Sequence[object],
    completions: Sequence[object],
    *,
    column: str = "answer",
    tolerance: float = 0.0,
    **columns: object,
) -> list[float | None]:
    """Return 1.0 where the response's number is the reference's, else 0.0.

    The score is None without a reference. A response without a number scores 0.0. A reference that
    is no number (`7\\pi`, `4:30p`, `A`) gives a missing score, and the log names the first.
    `tolerance` is the absolute difference that is still accepted. Raises `InputError` when no row
    has the column, and for a tolerance that is negative or not finite.
    """
    if not 0 <= tolerance < math.inf:
        raise InputError(
            "numeric_match",
            f"tolerance={tolerance!r} must be 0 or more, and finite",
        )
    references = reference_column(columns, column, len(completions))
    found = [
        _score(text, reference, _exact(str(tolerance)))
        for text, reference in zip(completion_texts(completions), references, strict=True)
    ]
    pairs = zip(references, found, strict=True)
    unread = [reference for reference, score in pairs if reference is not None and score is None]
    if unread and column not in _named:
        _named.add(column)
        log.warning(
            "numeric_match: column %r holds references that are no number, the first %r; their "
            "scores are missing",
            column,
            unread[0],
        )
    return found


# columns for which the log has named a reference that is no number: it does so once for each
_named: set[str] = set()


def read_number(text: str) -> Fraction | None:
    """Return the number that `text` gives as its answer, or None when it gives none.

    `1,000`, `$5`, `5%`, `.5`, `1e3`, `-3`, `3/4`, `1 1/2`, `\\frac{-3}{4}`, `3 \\times 10^8` and
    `10^3` are numbers; a percent sign and a unit change nothing. Digits of every script count.
    """
    text = _plain(text)
    marked = next(_marked(text), None)
    if marked is not None:
        return marked
    boxes = [box for box in _boxes(text) if any(map(str.isdecimal, box))]
    if boxes:
        return _whole(boxes[-1])
    said = _last_said(text)
    if said is not None:
        return said
    if _BOXED.search(text):
        return None
    return _last(_MARKER.split(text)[-1])


def read_reference(reference: object) -> Fraction | None:
    """Return the right answer that a row holds: a number, or a text that is one or ends in one.

    Return None for everything else, so that no reference is misread. Of a solution in words the
    last line counts.
    """
    if isinstance(reference, bool) or not isinstance(reference, int | float | str | Decimal):
        return None
    if not isinstance(reference, str):
        return _exact(str(reference)) if Decimal(str(reference)).is_finite() else None
    text = _plain(reference)
    if _MARKER.search(text) or _BOXED.search(text):
        return read_number(reference)
    whole = _whole(text)
    if whole is not None:
        return whole
    said = _last_said(text)
    if said is not None:
        return said
    return _concluded(text)


def _score(text: str, reference: object, tolerance: Fraction) -> float | None:
    wanted = None if reference is None else read_reference(reference)
    if wanted is None:
        return None
    given = read_number(text)
    return 0.0 if given is None else float(abs(given - wanted) <= tolerance)


def _exact(digits: str) -> Fraction:
    # by way of Decimal: int() refuses texts of more than 4300 digits
    return Fraction(Decimal(digits))


def _plain(text: str) -> str:
    """Return the text with LaTeX and the digits of other scripts written as ASCII numbers."""
    if not text.isascii():
        text = "".join(map(_ascii, text))
    if "\\" in text or "{" in text:
        for written, plain in _SIGNS:
            text = text.replace(written, plain)
        text = _FACES.sub(lambda face: face[1] or "", text)
        text = _WORDS.sub(_words, text)
        text = _FRACTION.sub(_plain_fraction, text)
    if "^" in text:
        text = _DEGREES.sub("", text)
        text = _SCIENTIFIC.sub(lambda match: f"e{(match[1] or match[2]).replace('−', '-')}", text)
        text = _POWER.sub(_power, text)
        text = _UNIT_EXPONENT.sub("", text)
    return text


def _ascii(char: str) -> str:
    """Return a decimal digit of any script, or a full-width form, as ASCII; others unchanged."""
    if char.isdecimal():
        return str(unicodedata.decimal(char))
    if "！" <= char <= "～":
        return chr(ord(char) - 0xFEE0)
    return char


def _words(match: re.Match[str]) -> str:
    """Return the words that a LaTeX command sets in a formula, without a unit's exponent."""
    return f" {match[1]} "


def _plain_fraction(match: re.Match[str]) -> str:
    outer, top_sign, top, top_digit, bottom_sign, bottom, bottom_digit = match.groups()
    negative = sum(bool(sign) for sign in (outer, top_sign, bottom_sign)) % 2
    # a whole number before the fraction is a part of it: 1\\frac{1}{2}
    whole = match.string[: match.start()][-1:].isdecimal()
    top, bottom = ((n or d).replace(",", "") for n, d in ((top, top_digit), (bottom, bottom_digit)))
    return f"{' ' if whole else ''}{'-' if negative else ''}{top}/{bottom}"


def _power(match: re.Match[str]) -> str:
    base, exponent = match[1], int(match[2].replace("−", "-"))
    if len(base) > 6:
        return match[0]
    if exponent < 0:
        return f"1/{int(base) ** -exponent}" if int(base) else match[0]
    return str(int(base) ** exponent)


def _number(match: re.Match[str]) -> Fraction:
    number = _exact(match["digits"].replace(",", "") + (match["exponent"] or ""))
    if match["bottom"] is not None:
        bottom = _exact(match["bottom"])
        part = number if match["top"] is None else _exact(match["top"])
        mixed = match["top"] is not None and part < bottom
        number = (number if mixed else 0) + part / bottom
    return -number if match["minus"] or match["inner"] else number


def _marked(text: str) -> Iterator[Fraction]:
    """Yield the numbers that stand directly behind a `####`, the last first, but no headings'."""
    for marker in reversed(list(_MARKER.finditer(text))):
        line = text[marker.end() :].lstrip().split("\n", 1)[0]
        line = _SPACED_MINUS.sub(r"\1-", _SUMS.sub("", line))
        match = _NUMBER.search(line)
        if match is None or not re.fullmatch(_DECORATION, line[: match.start()]):
            continue
        behind = line[match.end() :]
        if not _HEADING.match(behind) and len(behind.split()) <= _MOST_WORDS:
            yield _number(match)


def _whole(text: str) -> Fraction | None:
    """Return the number that a text is as a whole, or None.

    Only what stands behind the last equals sign counts, and a unit may follow the number.
    """
    *before, text = _RESULT.split(text)
    if any(_MANY.search(part) for part in before):
        return None
    text = _SPACED_MINUS.sub(r"\1-", text.strip())
    match = _NUMBER.search(text)
    if match is None or not _LEAD.fullmatch(text[: match.start()]):
        return None
    behind = text[match.end() :].rstrip(" .,;:!?)]}$*_`~\\\n\t。")
    return _number(match) if _UNIT.fullmatch(behind) else None


def _concluded(text: str) -> Fraction | None:
    """Return the last number in the last line of a solution, or None.

    The line has a label, as in "A: 18", and else a number only, or has three words or more.
    """
    line = text.strip().rsplit("\n", 1)[-1]
    labelled = _LABEL.match(line)
    if labelled is not None:
        return _whole(line[labelled.end() :])
    numbers = list(_NUMBER.finditer(line))
    if not numbers or len(_WORD.findall(line)) < 3:
        return None
    alone = re.match(r"[\s.,;!?%)\]}*_]|$", line[numbers[-1].end() :])
    return _number(numbers[-1]) if alone else None


def _last(text: str) -> Fraction | None:
    last = None
    for match in _NUMBER.finditer(text):
        last = match
    return None if last is None else _number(last)


def _last_said(text: str) -> Fraction | None:
    """Return the number in the last "the answer is" that has one, or None.

    It is a sum's result: 5 in "the answer is 2 + 3 = 5 eggs".
    """
    for match in reversed(list(_PHRASE.finditer(text))):
        said = _SPACED_MINUS.sub(r"\1-", _SUMS.sub("", match["said"]))
        if (number := _NUMBER.search(said)) is not None:
            return _number(number)
    return None


def _boxes(text: str) -> Iterator[str]:
    """Yield the contents of all boxes, braces balanced; an unclosed box ends with the text."""
    for match in _BOXED.finditer(text):
        depth = 1
        for end in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                yield text[match.end() : end]
                break
        else:
            yield text[match.end() :]
