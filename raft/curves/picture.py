"""Panels, titles and keys laid out in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from raft.curves.legends import add_panel_key, add_shared_key
from raft.curves.look import Look
from raft.curves.panel_axes import XScale, draw_panel, is_stack
from raft.curves.panels import Panel
from raft.curves.series import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

__all__ = ["make_picture"]

Drawn = Sequence[tuple[Panel, Sequence[Series]]]

_POINTS = 72
_AXIS_LABEL = 0.25  # inches that a panel does without where the one below has its axis


def make_picture(
    drawn: Drawn, look: Look, x: str, x_scale: XScale = "linear", width: float | None = None
) -> Figure:
    """The figure of these panels and series; call it under the rc parameters of `look`."""
    from matplotlib.figure import Figure

    labels = dict.fromkeys(series.setting.label for _, many in drawn for series in many)
    order = {label: place for place, label in enumerate(labels)}
    rows, columns, width = _grid(len(drawn), look, width)
    height = _height(look, width / columns)
    # a column of panels has one axis at its foot; the bars of a stack have their own
    shared = columns == 1 < rows and not any(is_stack(panel, order) for panel, _ in drawn)
    # a Figure of its own, without pyplot, draws with Agg whatever backend the process has
    figure = Figure(figsize=(width, rows * height))
    figure.set_layout_engine("constrained", h_pad=0.05, w_pad=0.04)
    grid = list(figure.subplots(rows, columns, squeeze=False, sharex=shared).flat)
    for ax in grid[len(drawn) :]:
        ax.remove()
    axes = grid[: len(drawn)]
    for ax, (panel, many) in zip(axes, drawn, strict=True):
        draw_panel(ax, panel, many, order, look, x, x_scale)
        if shared:
            ax.label_outer()
    shared_key = add_shared_key(figure, [many for _, many in drawn], look)
    keys = _add_keys(figure, axes, drawn, order, look, columns) + _inches(shared_key)
    # keys make a picture higher: they do not take from the axes
    figure.set_figheight(rows * height - (rows - 1) * _AXIS_LABEL * shared + keys)
    return figure


def _grid(count: int, look: Look, width: float | None) -> tuple[int, int, float]:
    """(rows, columns, width in inches), as even as can be."""
    if width is None:
        width = look.full_width or look.panel_width * min(count, 3)
    beside = max(1, min(count, int(width / look.narrowest)))
    rows = -(-count // beside)
    return rows, -(-count // rows), width


def _height(look: Look, panel_width: float) -> float:
    """Inches of a panel without its keys; one over a whole page is flat."""
    return max(look.height, min(panel_width * 0.62, 1.3 * look.height))


def _add_keys(
    figure: Figure,
    axes: Sequence[Axes],
    drawn: Drawn,
    order: Mapping[str, int],
    look: Look,
    columns: int,
) -> float:
    """Keys and above them titles, at one height in each row; returns the inches of all rows."""
    # the keys are fitted to the width that the axes will have
    figure.draw_without_rendering()
    keys = [
        _inches(add_panel_key(ax, panel, many, order, look))
        for ax, (panel, many) in zip(axes, drawn, strict=True)
    ]
    highest = [max(keys[first : first + columns]) for first in range(0, len(keys), columns)]
    lettered = look.lettered and 1 < len(axes) <= 26
    for index, (ax, (panel, _)) in enumerate(zip(axes, drawn, strict=True)):
        letter = f"({chr(ord('a') + index)}) " if lettered else ""
        pad = 4.0 + _POINTS * highest[index // columns]
        ax.set_title(letter + panel.title, pad=pad, parse_math=False)
    return sum(highest)


def _inches(key: Legend | None) -> float:
    if key is None or key.figure is None:
        return 0.0
    return key.get_window_extent().height / key.figure.dpi
