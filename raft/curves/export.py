"""The plotted numbers, for other programs: CSV or JSON."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raft.curves.panels import Panel
from raft.curves.picture_file import writing
from raft.curves.series import Series
from rollout.errors import InputError
from rollout.storage.files import whole_file, write_json

__all__ = ["check_data_file", "write_data"]

COLUMNS = ("panel", "setting", "metric", "iteration", "x", "value", "ci95", "runs")


def check_data_file(file: Path) -> None:
    """Raises InputError for a suffix that is not written."""
    if file.suffix.lower() not in (".csv", ".json"):
        raise InputError(f"--data {file}: end the name in .csv or .json")


def write_data(file: Path, x: str, drawn: Sequence[tuple[Panel, Sequence[Series]]]) -> None:
    """One row per point: `COLUMNS`; `ci95` is a half width, empty where there is none.

    JSON says what `x` is too, and has the marks of guards and stops.
    """
    rows = [row for panel, many in drawn for series in many for row in _rows(panel, series)]
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix.lower() == ".json":
            write_json(file, {"x": x, "points": rows, "marks": _marks(drawn)})
        else:
            _write_csv(file, rows)


def _write_csv(file: Path, rows: list[dict[str, Any]]) -> None:
    with whole_file(file) as lines:
        writer = csv.DictWriter(lines, list[str](COLUMNS), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _rows(panel: Panel, series: Series) -> list[dict[str, Any]]:
    return [
        {
            "panel": panel.title,
            "setting": series.setting.label,
            "metric": series.line.metric,
            "iteration": point.iteration,
            "x": point.x,
            "value": point.value,
            "ci95": point.half if math.isfinite(point.half) else None,
            "runs": point.runs,
        }
        for point in series.points
    ]


def _marks(drawn: Sequence[tuple[Panel, Sequence[Series]]]) -> list[dict[str, Any]]:
    settings = {id(one.setting): one.setting for _, many in drawn for one in many}
    return [
        {"setting": setting.label, **asdict(mark)}
        for setting in settings.values()
        for mark in setting.marks
    ]
