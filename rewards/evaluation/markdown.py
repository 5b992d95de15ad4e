"""Write cells and tables of Markdown: numbers with intervals, a dash for what is not known."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = [
    "number",
    "percent",
    "score",
    "section",
    "table",
    "with_interval",
]


def section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}"


def with_interval(value: float, low: float, high: float, form: str, unit: str = "") -> str:
    """Return a number and its interval, without the interval or as a dash where not known."""
    if not math.isfinite(value):
        return "–"
    shown = f"{value:{form}}{unit}"
    return f"{shown} [{low:{form}}, {high:{form}}]" if math.isfinite(low) else shown


def percent(share: float | None) -> str:
    return "–" if share is None else number(100 * share, ".1f", " %")


def score(value: float | None) -> str:
    return number(value, ".2f")


def number(value: float | None, form: str, unit: str = "") -> str:
    """Return the formatted number, a dash where it is None or not finite."""
    return "–" if value is None or not math.isfinite(value) else format(value, form) + unit


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with the first column on the left and numbers on the right."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in (columns, *rows)]
    widths = [max(3, *(len(row[at]) for row in cells)) for at in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join([first, *others])} |"

    rule = "|".join("-" * (w + 1) + (":" if at else "-") for at, w in enumerate(widths))
    return "\n".join([line(cells[0]), f"|{rule}|", *map(line, cells[1:])])
