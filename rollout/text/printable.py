"""Make text from servers, files and users' code safe to print.

A terminal obeys escape sequences, and line breaks can forge lines of a log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

__all__ = ["listed", "one_line", "printable", "printable_json"]

# control characters of ASCII and Latin-1 (not the line feed), marks that turn the direction of
# writing, line separators, halves of surrogate pairs and invisible tags; joiners are not matched,
# since words of many scripts need them
_UNSAFE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    r"""Return `text` with control characters written as escapes (`\x1b`); line feeds stay."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def printable_json(text: str) -> str:
    """Return JSON text with unsafe characters in its strings escaped; its value stays the same."""
    return _UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], text)


def listed(settings: Mapping[str, object]) -> str:
    """Return the settings as one safe line `name value, …`, without empty ones (None, "", {})."""
    said = [f"{name} {value}" for name, value in settings.items() if value not in (None, "", {})]
    return one_line(", ".join(said), limit=None)


def one_line(value: object, limit: int | None = 300) -> str:
    """Return the text of `value`, an error for example, as one safe line.

    A line of more than `limit` characters is cut there and ends with "…".
    """
    line = printable(" ".join(str(value).split()))
    return line if limit is None or len(line) <= limit else f"{line[:limit]}…"
