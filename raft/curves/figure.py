"""Lay out panels, titles and keys in one picture; keys are outside the axes and cover no data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from raft.curves.axes import XScale, draw_panel, is_stack, shown
from raft.curves.panels import Line, Panel
from raft.curves.runs import Series, Setting
from raft.curves.style import GREY, Style, line_style, marker_edge, shades

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

    Entry = tuple[Artist, str]

__all__ = [
    "add_panel_key",
    "add_shared_key",
    "make_picture",
]

_MOST_COLUMNS = 6
_NAME_LENGTHS = (200, 60, 40, 24, 16)


def add_panel_key(
    ax: Axes, panel: Panel, many: Sequence[Series], order: Mapping[str, int], style: Style
) -> Legend | None:
    """Add a key of the line styles above the axes and return it; None for fewer than two lines."""
    stacked = is_stack(panel, order)
    if stacked:
        handles, labels = _stack_entries(many)
    else:
        lines = list(dict.fromkeys(series.line for series in shown(panel, many, order)))
        handles = [_line_handle(line, style, alone=len(order) == 1) for line in lines]
        labels = [line.label for line in lines]
    if len(handles) < 2:
        return None
    return _fitted(
        lambda columns: ax.legend(
            handles, labels, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns,
            borderaxespad=0.2, borderpad=0.0, handlelength=1.0 if stacked else 2.4,
            columnspacing=1.0, handletextpad=0.5, labelspacing=0.25,
        ),
        len(handles),
        ax.bbox.width,
    )  # fmt: skip


def _stack_entries(many: Sequence[Series]) -> tuple[list[Artist], list[str]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    stages = [series.line.label for series in many if series.line.detail]
    whole = [series.line.label for series in many if not series.line.detail]
    handles: list[Artist] = [Patch(color=color) for color in shades(len(stages))]
    handles += [Line2D([], [], color="black", linestyle="none", marker="_") for _ in whole]
    return handles, stages + whole


def _line_handle(line: Line, style: Style, alone: bool) -> Artist:
    from matplotlib.lines import Line2D

    color, marker = line_style(line.tint)
    return Line2D(
        [],
        [],
        color=color if alone else GREY,
        linestyle=line.style,
        linewidth=style.line * line.width,
        markersize=style.marker * 0.8,
        marker=marker if alone and line.width > 0.5 else None,
        **marker_edge(color, line.style == "-", style),
    )


def add_shared_key(
    figure: Figure, drawn: Sequence[Sequence[Series]], style: Style
) -> Legend | None:
    """Add a key of the settings, of bands and of marks below the picture, and return it.

    Labels are shortened until the key fits the width. None where there is nothing to name.
    """
    settings = list({one.setting.label: one.setting for many in drawn for one in many}.values())
    runs = {
        setting.label: max(one.runs for many in drawn for one in many if one.setting is setting)
        for setting in settings
    }
    entries = [
        *_setting_entries(runs, style, named=any(map(_is_named, settings))),
        *_interval_entry(drawn),
        *_mark_entries(settings, style),
    ]
    if not entries:
        return None
    handles, texts = [handle for handle, _ in entries], [text for _, text in entries]
    room = figure.bbox.width * 0.98
    for longest in _NAME_LENGTHS:
        names = [_shortened(text, longest) for text in texts]
        legend = _fitted(partial(_figure_legend, figure, handles, names), len(entries), room)
        if legend.get_window_extent().width <= room or longest == _NAME_LENGTHS[-1]:
            return legend
        legend.remove()
    raise AssertionError("the shortest names are always taken")


def _figure_legend(
    figure: Figure, handles: list[Artist], texts: Sequence[str], columns: int
) -> Legend:
    # texts are set afterwards: matplotlib hides a label "_x" and typesets "$x$" as a formula
    legend = figure.legend(
        handles, [f"{i}" for i in range(len(texts))], loc="outside lower center", ncols=columns,
        handlelength=2.0, columnspacing=1.4, handletextpad=0.5, labelspacing=0.3, borderpad=0.2,
    )  # fmt: skip
    for entry, text in zip(legend.get_texts(), texts, strict=True):
        entry.set_parse_math(False)
        entry.set_text(text)
    return legend


def _fitted(make: Callable[[int], Legend], count: int, room: float) -> Legend:
    """Return the legend of `make` with the most columns that fit in `room` pixels.

    It has one column where even that does not fit. `count` is the number of entries.
    """
    for columns in range(min(count, _MOST_COLUMNS), 0, -1):
        # skip columns that save no row: 4 entries take two rows in 3 columns and in 2
        if math.ceil(count / columns) == math.ceil(count / max(columns - 1, 1)) and columns > 1:
            continue
        legend = make(columns)
        if columns == 1 or legend.get_window_extent().width <= room:
            return legend
        legend.remove()
    raise AssertionError("one column is always taken")


def _is_named(setting: Setting) -> bool:
    """Return whether the label of a setting was given, and is not only its folder's name."""
    return len(setting.paths) > 1 or setting.label != setting.paths[0].name


def _setting_entries(runs: Mapping[str, int], style: Style, *, named: bool) -> list[Entry]:
    """Return the entries of the key for the settings, with numbers of runs.

    `runs` maps labels to how many runs a line is a mean over. A single setting has an entry without
    a line, or none in style paper unless it is `named`.
    """
    from matplotlib.lines import Line2D

    labels = [f"{label} ({count} runs)" if count > 1 else label for label, count in runs.items()]
    if len(labels) == 1:
        # with one setting colours distinguish metrics; the caption of a paper names the run
        shown = named or not style.lettered
        return [(Line2D([], [], linestyle="none"), labels[0])] if shown else []
    entries = []
    for place, label in enumerate(labels):
        color, marker = line_style(place)
        handle = Line2D([], [], color=color, marker=marker, **marker_edge(color, True, style))
        handle.set(linewidth=style.line, markersize=style.marker * 1.1)
        entries.append((handle, label))
    return entries


def _interval_entry(drawn: Sequence[Sequence[Series]]) -> list[Entry]:
    from matplotlib.patches import Patch

    several = {one.runs > 1 for many in drawn for one in many if one.line.band and one.has_interval}
    if not several:
        return []
    over = {(True,): " over runs", (False,): "", (False, True): ""}[tuple(sorted(several))]
    return [(Patch(color=GREY, alpha=0.25, linewidth=0), f"95 % interval{over}")]


def _mark_entries(settings: Sequence[Setting], style: Style) -> list[Entry]:
    from matplotlib.lines import Line2D

    marks = [mark for setting in settings for mark in setting.marks]
    lines = {
        "guard": ("guard fired", Line2D(
            [], [], color=GREY, linestyle="none", marker="|", markersize=style.marker * 2
        )),
        "stopped": ("stopped", Line2D(
            [], [], color=GREY, linestyle=(0, (1, 1.5)), linewidth=style.line
        )),
        "best": ("checkpoint kept", Line2D(
            [], [], color=GREY, linestyle="none", marker="*", markersize=style.marker * 2.2,
            markerfacecolor="white",
        )),
    }  # fmt: skip
    found: list[Entry] = []
    for kind, (words, line) in lines.items():
        guards = sorted({mark.guard for mark in marks if mark.kind == kind and mark.guard})
        if any(mark.kind == kind for mark in marks):
            named = f"{words} ({', '.join(guards)})" if guards and kind != "best" else words
            found.append((line, named))
    return found


def _shortened(text: str, longest: int) -> str:
    text = "".join(c if c.isprintable() else "?" for c in text)
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


Drawn = Sequence[tuple[Panel, Sequence[Series]]]

_POINTS = 72
_AXIS_LABEL = 0.25  # inches that a panel saves where it shares the axis of the panel below


def make_picture(
    drawn: Drawn, style: Style, x: str, x_scale: XScale = "linear", width: float | None = None
) -> Figure:
    """Make the figure of these panels and series; call it under the rc parameters of `style`."""
    from matplotlib.figure import Figure

    labels = dict.fromkeys(series.setting.label for _, many in drawn for series in many)
    order = {label: place for place, label in enumerate(labels)}
    rows, columns, width = _grid(len(drawn), style, width)
    height = _height(style, width / columns)
    # panels in one column share the axis of the lowest; stacked bars need an axis of their own
    shared = columns == 1 < rows and not any(is_stack(panel, order) for panel, _ in drawn)
    # a Figure made without pyplot uses Agg, whatever the backend of the process is
    figure = Figure(figsize=(width, rows * height))
    figure.set_layout_engine("constrained", h_pad=0.05, w_pad=0.04)
    grid = list(figure.subplots(rows, columns, squeeze=False, sharex=shared).flat)
    for ax in grid[len(drawn) :]:
        ax.remove()
    axes = grid[: len(drawn)]
    for ax, (panel, many) in zip(axes, drawn, strict=True):
        draw_panel(ax, panel, many, order, style, x, x_scale)
        if shared:
            ax.label_outer()
    shared_key = add_shared_key(figure, [many for _, many in drawn], style)
    keys = _add_keys(figure, axes, drawn, order, style, columns) + _inches(shared_key)
    # keys increase the height of the picture, not reduce that of the axes
    figure.set_figheight(rows * height - (rows - 1) * _AXIS_LABEL * shared + keys)
    return figure


def _grid(count: int, style: Style, width: float | None) -> tuple[int, int, float]:
    """Return (rows, columns, width in inches) for `count` panels, the rows evenly filled."""
    if width is None:
        width = style.full_width or style.panel_width * min(count, 3)
    beside = max(1, min(count, int(width / style.narrowest)))
    rows = -(-count // beside)
    return rows, -(-count // rows), width


def _height(style: Style, panel_width: float) -> float:
    """Return the height of a panel without its keys, in inches; it is limited for wide panels."""
    return max(style.height, min(panel_width * 0.62, 1.3 * style.height))


def _add_keys(
    figure: Figure,
    axes: Sequence[Axes],
    drawn: Drawn,
    order: Mapping[str, int],
    style: Style,
    columns: int,
) -> float:
    """Add keys with titles above them, at one height in each row; return the inches of all rows."""
    # a first layout gives the axes their width, to which the keys are fitted
    figure.draw_without_rendering()
    keys = [
        _inches(add_panel_key(ax, panel, many, order, style))
        for ax, (panel, many) in zip(axes, drawn, strict=True)
    ]
    highest = [max(keys[first : first + columns]) for first in range(0, len(keys), columns)]
    lettered = style.lettered and 1 < len(axes) <= 26
    for index, (ax, (panel, _)) in enumerate(zip(axes, drawn, strict=True)):
        letter = f"({chr(ord('a') + index)}) " if lettered else ""
        pad = 4.0 + _POINTS * highest[index // columns]
        ax.set_title(letter + panel.title, pad=pad, parse_math=False)
    return sum(highest)


def _inches(key: Legend | None) -> float:
    if key is None or key.figure is None:
        return 0.0
    return key.get_window_extent().height / key.figure.dpi
