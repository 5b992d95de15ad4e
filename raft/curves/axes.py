"""Draw one panel: its lines, their intervals, and the marks of guards and stops."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from raft.curves.panels import Panel, axis_label
from raft.curves.runs import Point, Series
from raft.curves.style import GREY, Style, line_style, marker_edge, shades

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["XScale", "draw_panel", "is_stack"]

XScale = Literal["linear", "sqrt", "log"]

_MARKERS_ON_A_LINE = 16
_BAND = 0.16


def draw_panel(
    ax: Axes,
    panel: Panel,
    many: Sequence[Series],
    order: Mapping[str, int],
    style: Style,
    x: str,
    x_scale: XScale,
) -> None:
    """Draw the series of every setting; `order` gives each label its colour and marker."""
    if is_stack(panel, order):
        _stack(ax, many)
    else:
        for series in shown(panel, many, order):
            _line(ax, series, _place(series, order), style, len(order))
        marked = [series for series in _main_lines(many) if series.setting.marks]
        for row, series in enumerate(marked):
            _marks(ax, series, _place(series, order), style, x, (row, len(marked)))
    ax.set_ylabel(_y_label(panel, many, order))
    _scale(ax, panel, many, x, x_scale)


def is_stack(panel: Panel, order: Mapping[str, int]) -> bool:
    return panel.stack and len(order) == 1


def shown(panel: Panel, many: Sequence[Series], order: Mapping[str, int]) -> list[Series]:
    """Return the series to draw as lines: details only for a single setting, and not in a stack.

    The details of several settings would be unreadable.
    """
    details = len(order) == 1 and not panel.stack
    return [series for series in many if details or not series.line.detail]


def _y_label(panel: Panel, many: Sequence[Series], order: Mapping[str, int]) -> str:
    """Return the label of the axis, with the metric's name where only one of several is drawn."""
    lines = {series.line for series in shown(panel, many, order)}
    others_hidden = len(panel.lines) > 1 == len(lines) and not is_stack(panel, order)
    label = next(iter(lines)).label if others_hidden else "mean"
    return panel.y_label if label == "mean" else f"{panel.y_label} ({label})"


def _place(series: Series, order: Mapping[str, int]) -> int:
    return series.line.tint if len(order) == 1 else order[series.setting.label]


def _line(ax: Axes, series: Series, place: int, style: Style, settings: int) -> None:
    color, marker = line_style(place)
    line, points = series.line, series.points
    at, values = [point.x for point in points], [point.value for point in points]
    step = max(1, math.ceil(len(points) / _MARKERS_ON_A_LINE))
    # thin lines of a single run can be told apart without markers
    marked = line.width > 0.5 or len(points) == 1
    ax.plot(
        at,
        values,
        line.style,
        color=color,
        linewidth=style.line * line.width,
        alpha=1.0 if line.width > 0.5 else 0.75,
        marker=marker if marked else None,
        # many markers hide the line; those of several lines are shifted against one another
        markevery=(place * step // max(settings, 1) % step, step) if len(points) > 1 else None,
        markersize=style.marker * (1.0 if line.width == 1.0 else 0.75),
        **marker_edge(color, line.style == "-", style),
        gid=f"{series.setting.label} {line.metric}",
        zorder=3 if line.band else 2.5,
    )
    if line.band:
        _interval(ax, points, color, style)


def _interval(ax: Axes, points: Sequence[Point], color: str, style: Style) -> None:
    known = [point for point in points if math.isfinite(point.half)]
    if not known:
        return
    at = [point.x for point in known]
    values, halves = [point.value for point in known], [point.half for point in known]
    # a band needs rising x: a line that turns back, or a single point, gets error bars
    if len(known) > 1 and all(a < b for a, b in pairwise(at)):
        low = [value - half for value, half in zip(values, halves, strict=True)]
        high = [value + half for value, half in zip(values, halves, strict=True)]
        ax.fill_between(at, low, high, color=color, alpha=_BAND, linewidth=0, zorder=2)
    else:
        ax.errorbar(
            at, values, halves, fmt="none", ecolor=color, alpha=0.6, capsize=style.marker / 2,
            elinewidth=style.line * 0.6, capthick=style.line * 0.6, zorder=2,
        )  # fmt: skip


def _stack(ax: Axes, many: Sequence[Series]) -> None:
    """Draw stages on top of one another, and a mark at the time of the whole iteration."""
    stages = [series for series in many if series.line.detail]
    below: dict[int, float] = {}
    for series, color in zip(stages, shades(len(stages)), strict=True):
        at = [point.iteration for point in series.points]
        ax.bar(
            at,
            [point.value for point in series.points],
            bottom=[below.get(iteration, 0.0) for iteration in at],
            width=0.8,
            color=color,
            linewidth=0,
            gid=f"{series.setting.label} {series.line.metric}",
        )
        for point in series.points:
            below[point.iteration] = below.get(point.iteration, 0.0) + point.value
    for series in many:
        if not series.line.detail:
            ax.plot(
                [point.iteration for point in series.points],
                [point.value for point in series.points],
                linestyle="none", marker="_", color="black", markersize=7,
                gid=f"{series.setting.label} {series.line.metric}",
            )  # fmt: skip


def _main_lines(many: Sequence[Series]) -> list[Series]:
    """Return the first series of each setting, at which the setting's marks are drawn."""
    first: dict[str, Series] = {}
    for series in many:
        first.setdefault(series.setting.label, series)
    return list(first.values())


def _marks(
    ax: Axes, series: Series, place: int, style: Style, x: str, among: tuple[int, int]
) -> None:
    """Draw the marks of a setting; `among` is (its number, how many settings have marks).

    Where several settings have marks at one place, ticks are raised above one another, and the dots
    of vertical lines alternate.
    """
    from matplotlib.markers import TICKUP
    from matplotlib.transforms import ScaledTranslation

    row, rows = among
    color, _ = line_style(place)
    points = {point.iteration: point for point in series.points}
    height = style.marker * min(3.0, 9 / rows)
    figure = ax.get_figure(root=True)
    assert figure is not None
    raised = ScaledTranslation(0, row * height * 1.15 / 72, figure.dpi_scale_trans)
    bottom = ax.get_xaxis_transform() + raised
    dots = (row * 2.5, (1, rows * 2.5 - 1))
    for kind, iteration in dict.fromkeys((m.kind, m.iteration) for m in series.setting.marks):
        point = points.get(iteration)
        at = float(iteration) if x == "iteration" else point.x if point else None
        if at is None:
            continue
        gid = f"{series.setting.label} {kind} {iteration}"
        if kind == "stopped":
            ax.axvline(at, color=color, linestyle=dots, linewidth=style.line, gid=gid)
        elif kind == "guard":
            ax.plot(
                [at], [0.0], marker=TICKUP, linestyle="none", transform=bottom, clip_on=False,
                color=color, markersize=height, markeredgewidth=style.line * 1.2, gid=gid,
                zorder=4,
            )  # fmt: skip
        elif point is not None:
            ax.plot(
                [at], [point.value], "*", color="white", markeredgecolor=color, gid=gid,
                markersize=style.marker * 2.6, markeredgewidth=style.line * 0.7, zorder=5,
            )  # fmt: skip


def _scale(ax: Axes, panel: Panel, many: Sequence[Series], x: str, x_scale: XScale) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel(axis_label(x))
    ax.margins(x=0.04, y=0.08)
    if panel.level is not None:
        ax.axhline(panel.level, color=GREY, linewidth=0.8, zorder=1)
    if panel.change:
        ax.axhline(0.0, color=GREY, linewidth=0.8, zorder=1)
    at = {point.x for series in many for point in series.points}
    if len(at) == 1:
        (only,) = at
        ax.set_xlim(only - 0.5, only + 0.5)
    if x_scale == "sqrt":
        ax.set_xscale("function", functions=(_signed_root, _signed_square))
        # a margin in units of x would look wide near zero, where the root is steep
        edge = 0.04 * max(map(abs, at)) ** 0.5
        ax.set_xlim(left=min([0.0, *at]) - edge**2)
    elif x_scale == "log":
        ax.set_xscale("log")
    if x == "iteration" and x_scale == "linear":
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))


def _signed_root(values: np.ndarray) -> np.ndarray:
    """Return the square root of |x| with the sign of x: estimates of a KL may be negative."""
    return np.sign(values) * np.sqrt(np.abs(values))


def _signed_square(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.square(values)
