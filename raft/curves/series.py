"""Numbers of one metric along a setting: what is drawn, and what `--data` writes."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from raft.curves.panels import Line, Panel, interval_of
from raft.curves.settings import Setting
from raft.metrics import number
from rewards.evaluation.stats import mean_ci95

__all__ = ["Point", "Series", "series_of"]

log = logging.getLogger("raft")


@dataclass(frozen=True, slots=True)
class Point:
    """`half` is half the width of the 95 % interval; NaN where there is none.

    It is the run's own over prompts for one run, and Student's over the values of several.
    """

    iteration: int
    x: float
    value: float
    half: float
    runs: int


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a panel, in order of iterations: on another axis it is a path."""

    setting: Setting
    line: Line
    points: tuple[Point, ...]

    @property
    def runs(self) -> int:
        """How many of the setting's runs it is the mean of."""
        return self.points[0].runs

    @property
    def has_interval(self) -> bool:
        return any(math.isfinite(point.half) for point in self.points)


def series_of(setting: Setting, panel: Panel, x: str) -> list[Series]:
    """The lines of a panel for which the setting has points; none where it has details alone."""
    found = [Series(setting, line, tuple(_points(setting, line.metric, x))) for line in panel.lines]
    found = [series for series in found if series.points]
    if all(series.line.detail for series in found):
        return []
    return [_from_start(series) for series in found] if panel.change else found


def _points(setting: Setting, metric: str, x: str) -> list[Point]:
    every = [_values(rows, metric, x) for rows in setting.rows]
    runs = [run for run in every if run]
    if not runs:
        return []
    for path, run in zip(setting.paths, every, strict=True):
        if not run:
            log.warning("%s: %s is in no row of %s: left out", setting.label, metric, path)
    shared = set.intersection(*map(set, runs))
    _say_what_is_not_shared(setting, metric, set.union(*map(set, runs)) - shared)
    return [_point(iteration, [run[iteration] for run in runs]) for iteration in sorted(shared)]


def _values(
    rows: Sequence[dict[str, Any]], metric: str, x: str
) -> dict[int, tuple[float, float, float]]:
    """iteration -> (x, value, half width)"""
    found = {}
    for row in rows:
        at, value = number(row, x), number(row, metric)
        if at is not None and value is not None:
            half = number(row, interval_of(metric))
            found[row["iteration"]] = (at, value, math.nan if half is None else half)
    return found


def _point(iteration: int, runs: Sequence[tuple[float, float, float]]) -> Point:
    if len(runs) == 1:
        return Point(iteration, *runs[0], runs=1)
    mean, half = mean_ci95([value for _, value, _ in runs])
    return Point(iteration, sum(at for at, _, _ in runs) / len(runs), mean, half, len(runs))


def _say_what_is_not_shared(setting: Setting, metric: str, missing: set[int]) -> None:
    """A mean over other runs at every iteration would jump where none of them did."""
    if missing:
        log.warning(
            "%s: %s is not in every run at iteration %s: left out",
            *(setting.label, metric, ", ".join(map(str, sorted(missing)))),
        )


def _from_start(series: Series) -> Series:
    first = series.points[0].value
    return replace(series, points=tuple(replace(p, value=p.value - first) for p in series.points))
