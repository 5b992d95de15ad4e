"""Read a run's `metrics.jsonl`: one JSON object per line, one line per iteration and phase."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rollout.errors import InputError

__all__ = ["number", "read_metrics"]


def read_metrics(
    run_dir: str | Path, *, on_damage: Callable[[str], None] | None = None
) -> list[dict[str, Any]]:
    """One dict per iteration, in order: the rows of its phases merged, `phase` left out.

    Where two rows give one key, the later line counts, as it does after a resumed run.

    Args:
        on_damage: called with what is wrong with a broken line, which is then left out; without
            it a broken line is an error.

    Raises:
        InputError: for a missing folder or file, and for a broken line, which it names.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise InputError(f"{run_dir}: no such run folder; name the run_dir of a run")
    file = run_dir / "metrics.jsonl"
    if not file.is_file():
        raise InputError(f"{run_dir}: holds no metrics.jsonl; name a run that `raft run` has begun")
    merged: dict[int, dict[str, Any]] = {}
    with file.open("rb") as lines:
        for line_number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = _row(line, f"{file}:{line_number}")
            except InputError as error:
                if on_damage is None:
                    raise
                on_damage(str(error))
            else:
                merged.setdefault(row["iteration"], {}).update(row)
    for row in merged.values():
        row.pop("phase", None)
    return [merged[iteration] for iteration in sorted(merged)]


def number(row: dict[str, Any], key: str) -> float | None:
    """The finite number under `key`; None for anything else."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an int that no float holds
        return None


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # covers bytes that are not UTF-8
        raise InputError(f"{where}: not valid JSON; mend or delete the line") from None
    iteration = row.get("iteration") if isinstance(row, dict) else None
    if not isinstance(iteration, int) or isinstance(iteration, bool):
        raise InputError(f"{where}: no whole number as iteration; mend or delete the line")
    return row
