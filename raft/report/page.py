"""The page around the data: markup, styles and script in one file that asks nobody for anything.

Whatever a run holds gets into it as JSON or as base64, never as markup, and is shown as text. A
Content-Security-Policy forbids all requests, and every script but the page's own.

Blocks of data in a page: compressed, base64, and inert until the page looks at one.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from functools import cache
from importlib.resources import files
from typing import Any, TextIO

from rollout.data.jsonl import encode_rows

__all__ = [
    "Blocks",
    "RowBlocks",
    "beginning",
    "end",
]

# in the order in which they build on each other
_SCRIPTS = (
    "dom", "numbers", "shown", "data", "notices", "chart", "curves", "timeline", "facts",
    "matching", "listbox", "sample", "prompt", "browser", "lists", "main",
)  # fmt: skip
_SPLIT = "<!-- data -->\n"


def beginning(title: str) -> str:
    """Everything before the data blocks. `title` may hold anything."""
    return _filled(
        _shell().split(_SPLIT)[0],
        {"TITLE": html.escape(_printable(title)), "POLICY": _policy(), "STYLE": _style()},
    )


def end(data: dict[str, Any]) -> str:
    """Everything after the data blocks; `data` is what the script finds as its own."""
    # ASCII alone, and no "<": no text of a model can end the element that it is in
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return _filled(_shell().split(_SPLIT)[1], {"DATA": text, "SCRIPT": _script()})


def _filled(shell: str, values: dict[str, str]) -> str:
    """All places at once: a text that is put in may hold the name of another, `%SCRIPT%` say."""
    names = "|".join(values)
    return re.sub(f"%({names})%", lambda place: values[place[1]], shell)


def _policy() -> str:
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_digest(_script())}'",
            f"style-src '{_digest(_style())}'",
            "base-uri 'none'",
            "form-action 'none'",
            # text becomes markup nowhere: the browser refuses every attempt
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "�" for c in text)


@cache
def _shell() -> str:
    return _asset("shell.html")


@cache
def _style() -> str:
    return _asset("style.css")


@cache
def _script() -> str:
    return '"use strict";\n' + "\n".join(_asset(f"{name}.js") for name in _SCRIPTS)


def _asset(name: str) -> str:
    return (files("raft.report") / "page" / name).read_text(encoding="utf-8")


# looking at one prompt unpacks one block: some milliseconds of a phone's time
_BYTES_PER_BLOCK = 1 << 19


class Blocks:
    """Writes numbered `<script>` elements of a type that no browser runs, as they come."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.count = 0

    def add(self, data: bytes) -> int:
        """Write one block and return its number. The same data make the same bytes."""
        packed = base64.b64encode(gzip.compress(data, 6, mtime=0)).decode("ascii")
        number = self.count
        self._file.write(
            f'<script type="application/octet-stream" id="block-{number}">{packed}</script>\n'
        )
        self.count += 1
        return number


class RowBlocks:
    """Gathers rows into blocks of JSON lines; a row larger than a block has one of its own."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._lines: list[bytes] = []
        self._size = 0
        self.first_rows: list[int] = []  # of every block: the number of its first row
        self.numbers: list[int] = []
        self._rows = 0

    def add(self, row: dict) -> None:
        line = encode_rows([row])
        if self._lines and self._size + len(line) > _BYTES_PER_BLOCK:
            self.finish()
        self._lines.append(line)
        self._size += len(line)
        self._rows += 1

    def finish(self) -> None:
        if self._lines:
            self.first_rows.append(self._rows - len(self._lines))
            self.numbers.append(self._blocks.add(b"".join(self._lines)))
        self._lines, self._size = [], 0
