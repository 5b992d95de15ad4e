"""What the monitor of a run left beside its metrics: guards that fired, and where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Mark", "read_marks"]


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened after `iteration`: "guard" fired, the run was "stopped", or the
    checkpoint of this iteration was kept as the "best"."""

    kind: str
    iteration: int
    guard: str
    message: str


def read_marks(run_dir: Path, on_damage: Callable[[str], None]) -> list[Mark]:
    """The marks of `guards.jsonl` and `stopped.json`; none where a run has neither.

    What cannot be read is handed to `on_damage` in a line that names it, and left out.
    """
    return [*_guards(run_dir / "guards.jsonl", on_damage), *_stop(run_dir, on_damage)]


def _guards(file: Path, on_damage: Callable[[str], None]) -> list[Mark]:
    if not file.is_file():
        return []
    found = []
    for line_number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if line.strip():
            row = _mapping(line, f"{file}:{line_number}", on_damage)
            found += [_mark("guard", row, "iteration")] if row else []
    return list(dict.fromkeys(found))


def _stop(run_dir: Path, on_damage: Callable[[str], None]) -> list[Mark]:
    file = run_dir / "stopped.json"
    if not file.is_file():
        return []
    row = _mapping(file.read_bytes(), str(file), on_damage)
    if row is None:
        return []
    found = [_mark("stopped", row, "iteration")]
    if isinstance(row.get("best_iteration"), int):
        found.append(_mark("best", row, "best_iteration"))
    return found


def _mapping(text: bytes, where: str, on_damage: Callable[[str], None]) -> dict[str, Any] | None:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        row = None
    if isinstance(row, dict) and isinstance(row.get("iteration"), int):
        return row
    on_damage(f"{where}: no mark of a guard; left out")
    return None


def _mark(kind: str, row: dict[str, Any], key: str) -> Mark:
    return Mark(kind, row[key], str(row.get("guard", "")), str(row.get("message", "")))
