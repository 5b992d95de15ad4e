"""Cells and tables of Markdown: numbers with their intervals, None as a dash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = [
    "number",
    "percent",
    "points",
    "score",
    "score_interval",
    "section",
    "table",
    "with_interval",
]


def section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}"


def with_interval(one: dict[str, Any]) -> str:
    if one["accuracy"] is None:
        return "–"
    value = f"{100 * one['accuracy']:.1f} %"
    return value if one["low"] is None else f"{value} {_ends(one, '.1f')}"


def points(one: dict[str, Any]) -> str:
    if one["difference"] is None:
        return "–"
    value = f"{100 * one['difference']:+.1f}"
    return value if one["low"] is None else f"{value} {_ends(one, '+.1f')}"


def _ends(one: dict[str, Any], form: str) -> str:
    return f"[{100 * one['low']:{form}}, {100 * one['high']:{form}}]"


def score_interval(one: dict[str, Any], key: str, digits: int = 2) -> str:
    if one.get(key) is None:
        return "–"
    value = f"{one[key]:.{digits}f}"
    if one.get("low") is None:
        return value
    return f"{value} [{one['low']:.{digits}f}, {one['high']:.{digits}f}]"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def score(value: float | None) -> str:
    return number(value, ".2f")


def number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, numbers to the right."""
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
