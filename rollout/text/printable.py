"""Foreign text made safe to show: what a server, a file or a user's code said in its own words.

A terminal obeys escape sequences, and a log believes line breaks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

__all__ = ["listed", "one_line", "printable", "printable_json"]

# control characters of ASCII and Latin-1, what turns the direction of writing, separators of
# lines, halves of surrogate pairs, invisible tags; joiners stay, words of many scripts need them
_UNSAFE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    r"""`text` with what a terminal would obey as escapes, `\x1b`; line breaks stay."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def printable_json(text: str) -> str:
    """The same of JSON, which stays the same JSON."""
    return _UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], text)


def listed(settings: Mapping[str, object]) -> str:
    """`name value, …` of the settings that say something, as one safe line."""
    said = [f"{name} {value}" for name, value in settings.items() if value not in (None, "", {})]
    return one_line(", ".join(said), limit=None)


def one_line(value: object, limit: int | None = 300) -> str:
    """The text of an error or of anything else as one safe line of at most `limit` characters."""
    line = printable(" ".join(str(value).split()))
    return line if limit is None or len(line) <= limit else f"{line[:limit]}…"
