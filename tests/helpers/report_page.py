"""A report taken apart: its elements, its data, its blocks."""

from __future__ import annotations

import base64
import gzip
import html.parser
import json
from pathlib import Path
from typing import Any

from raft.report import write_report


class Page(html.parser.HTMLParser):
    """The elements of a page as a browser's tokenizer sees them, and the texts of its scripts."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.styles: list[str] = []
        self._inside: tuple[str, str] | None = None
        self.feed(file.read_text())
        self.data: dict[str, Any] = json.loads(self.scripts["run"])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag in ("script", "style"):
            self._inside = (tag, found.get("id") or "own")

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is None:
            return
        tag, name = self._inside
        if tag == "script":
            self.scripts[name] = self.scripts.get(name, "") + data
        else:
            self.styles.append(data)

    def block(self, number: int) -> str:
        return gzip.decompress(base64.b64decode(self.scripts[f"block-{number}"])).decode()

    def stage(self, iteration: int, phase: str) -> dict[str, Any]:
        stages = self.data["stages"]
        return next(s for s in stages if (s["iteration"], s["phase"]) == (iteration, phase))

    def rows(self, iteration: int, phase: str) -> list[dict[str, Any]]:
        blocks = map(self.block, self.stage(iteration, phase)["blocks"])
        return [json.loads(line) for block in blocks for line in block.splitlines()]

    def index(self, iteration: int, phase: str) -> dict[str, Any]:
        return json.loads(self.block(self.stage(iteration, phase)["index"]))

    def entries(self, title: str) -> list[dict[str, Any]]:
        return next(one["entries"] for one in self.data["lists"] if one["title"] == title)


def report(run: Path, **options: Any) -> Page:
    return Page(write_report(run, run.with_name("report.html"), **options))
