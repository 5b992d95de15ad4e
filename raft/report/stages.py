"""The stages of a run whose samples are stored, and how each gets into the page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from raft.report.blocks import Blocks, RowBlocks
from raft.report.sound_rows import chosen_samples, sample_rows

__all__ = ["Index", "Stage", "embed", "find_stages"]

_START = 140  # characters of a prompt that its line in a list shows


@dataclass(frozen=True, slots=True)
class Stage:
    """The file of one iteration's rollouts or held-out samples. `name` is its path in the run."""

    iteration: int
    phase: str  # "eval" or "rollouts"
    path: Path
    name: str

    @property
    def chosen(self) -> Path | None:
        path = self.path.with_name("selected.jsonl")
        return path if self.phase == "rollouts" and path.exists() else None


@dataclass(slots=True)
class Index:
    """One line per prompt: what lists are made of, without the responses.

    The P entries of `columns` are in the order of the file; `scores` holds K numbers or None each.
    """

    ids: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)  # K
    starts: list[str] = field(default_factory=list)
    scores: dict[str, list[list[float | None]]] = field(default_factory=dict)
    chosen: list[list[int]] = field(default_factory=list)
    cut: list[list[int]] = field(default_factory=list)
    samples: int = 0
    tokens: int = 0

    def add(self, row: dict[str, Any]) -> None:
        for name in row["scores"]:
            # a column that comes up late was missing before
            self.scores.setdefault(name, [[] for _ in self.ids])
        for name, column in self.scores.items():
            column.append(row["scores"].get(name, []))
        self.ids.append(row["id"])
        self.counts.append(len(row["responses"]))
        self.starts.append(start_of(row["prompt"]))
        self.chosen.append(row.get("chosen", []))
        reasons = row.get("finish", [])
        self.cut.append([k for k, reason in enumerate(reasons) if reason == "length"])
        self.samples += len(row["responses"])
        self.tokens += sum(count or 0 for count in row.get("tokens", []))

    def as_json(self) -> bytes:
        columns = {
            "ids": self.ids,
            "counts": self.counts,
            "starts": self.starts,
            "scores": self.scores,
            "chosen": self.chosen,
            "cut": self.cut,
        }
        return json.dumps(columns, separators=(",", ":")).encode("ascii")


def find_stages(run: Path, iterations: list[int]) -> list[Stage]:
    """What is there, in the order in which it was drawn."""
    found = []
    for iteration in iterations:
        for phase in ("rollouts", "eval"):
            name = f"iterations/{iteration:03d}/{phase}.jsonl"
            if (run / name).is_file():
                found.append(Stage(iteration, phase, run / name, name))
    return found


def embed(
    stage: Stage,
    blocks: Blocks,
    on_damage: Callable[[str], None],
    *,
    limit: int | None,
    advance: Callable[[], None],
) -> tuple[dict[str, Any], Index]:
    """Write the stage's rows and its index as blocks; what the page must know to find them.

    Memory holds one block of rows and the stage's index.
    """
    chosen_path = stage.chosen
    chosen = {}
    if chosen_path is not None:
        name = str(Path(stage.name).with_name(chosen_path.name))
        chosen = chosen_samples(chosen_path, name, on_damage)
    rows, index = RowBlocks(blocks), Index()
    every_row = sample_rows(stage.path, stage.name, on_damage)
    for row in islice(every_row, limit):
        if row["id"] in chosen:
            _mark(row, *chosen[row["id"]])
        rows.add(row)
        index.add(row)
        advance()
    rows.finish()
    if left := sum(1 for _ in every_row):
        on_damage(f"{stage.name}: the first {limit} prompts are here, {left} more are left out")
    known = {
        "iteration": stage.iteration,
        "phase": stage.phase,
        "prompts": len(index.ids),
        "samples": index.samples,
        "tokens": index.tokens,
        "chosen": sum(map(len, index.chosen)),
        "index": blocks.add(index.as_json()),
        "blocks": rows.numbers,
        "firstRows": rows.first_rows,
        "ranges": {name: spread(column) for name, column in index.scores.items()},
    }
    return known, index


def start_of(prompt: str | list[dict[str, str]]) -> str:
    """The beginning of a prompt on one line; of a dialogue that of the last turn."""
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"] if prompt else ""
    return " ".join(text[: 4 * _START].split())[:_START]


def spread(column_PK: list[list[float | None]]) -> list[float] | None:
    """[lowest, highest] of the scores that are there."""
    low, high = math.inf, -math.inf
    for scores_K in column_PK:
        for score in scores_K:
            if score is not None:
                low, high = min(low, score), max(high, score)
    return [low, high] if low <= high else None


def _mark(row: dict[str, Any], chosen: list[int], rejected: set[int]) -> None:
    row["chosen"] = chosen
    if rejected:
        row["rejected"] = [
            k
            for k, text in enumerate(row["responses"])
            if k not in chosen and hash(text) in rejected
        ]
