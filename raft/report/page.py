"""The report's page: markup, styles, script and the data itself in one file.

The contents of a run get into the page as JSON or as base64, never as markup, and are shown as
text. A Content-Security-Policy forbids all requests and every script but the page's own. Rows of
samples are in compressed blocks, which the script unpacks when it shows one of their rows. The
typed dictionaries describe the data that the script reads, which knows it by these keys.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NotRequired, TextIO, TypedDict

from rollout.data.jsonl import encode_rows

__all__ = [
    "Blocks",
    "Fact",
    "FactGroup",
    "Guard",
    "Headline",
    "Histogram",
    "HistogramRow",
    "PageData",
    "PageLine",
    "PagePanel",
    "PageStage",
    "RowBlocks",
    "SampleEntry",
    "SampleList",
    "StageBlocks",
    "Stop",
    "Times",
    "beginning",
    "end",
]


class Headline(TypedDict):
    """One of the few numbers at the top, as text."""

    label: str
    value: str
    note: str


Fact = tuple[str, str]  # (what it is, its value)


class FactGroup(TypedDict):
    title: str
    rows: list[Fact]


class PageLine(TypedDict):
    """A metric in a panel; `interval` is the key with the half width of its 95 % interval."""

    key: str
    label: str
    interval: str | None
    dash: str
    width: float


class PagePanel(TypedDict):
    """A panel of curves; `level` is a horizontal line that values are read against."""

    title: str
    unit: str
    level: float | None
    lines: list[PageLine]


class Times(TypedDict):
    """Seconds of an iteration by stage, `other` among them, and their sum."""

    iteration: int
    seconds: dict[str, float]
    total: float


class Guard(TypedDict):
    """A guard of the monitor that fired; `stops` where it may end the run."""

    iteration: int | None
    guard: str
    message: str
    stops: bool


class Stop(Guard):
    """Why the run was stopped, and where its best policy is."""

    best_iteration: int | None
    checkpoint: str


class StageBlocks(TypedDict):
    """The samples of one iteration's rollouts or evaluation, and the blocks that hold them.

    `firstRows` are the numbers of the first rows of `blocks`; `ranges` the lowest and highest score
    by name.
    """

    iteration: int
    phase: str
    prompts: int
    samples: int
    tokens: int
    chosen: int
    index: int
    blocks: list[int]
    firstRows: list[int]
    ranges: dict[str, list[float] | None]


class PageStage(StageBlocks):
    """A stage whose scores are called `measure`; `comparable` where they compare across prompts."""

    measure: str
    comparable: bool


class SampleEntry(TypedDict):
    """A sample of a list, or a prompt where there is no `sample`; `figures` are (name, value)."""

    stage: int
    row: int
    figures: list[tuple[str, float]]
    sample: NotRequired[int]
    prompt: NotRequired[str]
    response: NotRequired[str]


class SampleList(TypedDict):
    title: str
    what: str
    entries: list[SampleEntry]


class HistogramRow(TypedDict):
    iteration: int
    counts: list[int]
    mean: float


class Histogram(TypedDict):
    """The distribution of held-out scores, by iteration, in bins of one width from low to high."""

    low: float
    high: float
    measure: str
    rows: list[HistogramRow]


class PageData(TypedDict):
    """The page's data without the samples. `phases` are the names of phases of other runs."""

    title: str
    made: str
    changed: str | None
    headline: list[Headline]
    facts: list[FactGroup]
    config: str
    metrics: list[dict[str, float]]
    panels: list[PagePanel]
    stageNames: list[str]
    times: list[Times]
    guards: list[Guard]
    stopped: Stop | None
    stages: list[PageStage]
    phases: dict[str, str]
    histogram: Histogram | None
    lists: list[SampleList]
    notices: list[str]


# in the order in which they build on each other
_SCRIPTS = (
    "dom", "numbers", "shown", "data", "notices", "chart", "curves", "timeline", "facts",
    "histogram", "matching", "listbox", "links", "words", "sample", "prompt", "table", "browser",
    "lists", "main",
)  # fmt: skip
_SPLIT = "<!-- data -->\n"


def beginning(title: str) -> str:
    """Return the part of the page before the data blocks. `title` may be any text."""
    return _filled(
        _shell().split(_SPLIT)[0],
        {"TITLE": html.escape(_printable(title)), "POLICY": _policy(), "STYLE": _style()},
    )


def end(data: PageData) -> str:
    """Return the part of the page after the data blocks."""
    # ASCII alone, and no "<": no text of a model can end the element that it is in
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return _filled(_shell().split(_SPLIT)[1], {"DATA": text, "SCRIPT": _script()})


def _filled(shell: str, values: dict[str, str]) -> str:
    """Return `shell` with all placeholders filled at once: a value may contain another's name."""
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
            # the browser lets no text become markup
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


# showing one prompt unpacks one block: some milliseconds on a phone
_BYTES_PER_BLOCK = 1 << 19


class Blocks:
    """A writer of blocks as numbered `<script>` elements of a type that no browser runs."""

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
    """A writer of rows in blocks of JSON lines, of 512 KiB at most; a larger row has its own."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._lines: list[bytes] = []
        self._size = 0
        self.first_rows: list[int] = []  # of every block: the number of its first row
        self.numbers: list[int] = []
        self._rows = 0

    def add(self, row: Mapping[str, object]) -> None:
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
