"""Plain tables, and a subprocess that must succeed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Format a table: the first column is aligned on the left, the others on the right."""
    cells = [[_cell(value) for value in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = []
    for row in cells:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def spread(values: Sequence[float]) -> str:
    """Format the median, and the range of several values."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def run_module(module: str, arguments: Sequence[str], log: Path) -> None:
    """Run `python -m module` in a process of its own, with its output in `log`.

    Ends with SystemExit where the module fails.
    """
    with open(log, "w", encoding="utf-8") as file:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments], stdout=file, stderr=subprocess.STDOUT
        )
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise SystemExit(f"{module} ended with {done.returncode}; the end of {log}:\n{tail}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
