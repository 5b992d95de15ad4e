"""Lay out panels, titles and keys in one picture. Keys stand outside the axes and cover no data."""

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
    """Add a key of the line styles above the axes, where a panel has several."""
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
    """Add a key of the settings, of bands and of marks below the picture."""
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
    # names are set afterwards: of a label "_x" or "$x$" matplotlib makes something else
    legend = figure.legend(
        handles, [f"{i}" for i in range(len(texts))], loc="outside lower center", ncols=columns,
        handlelength=2.0, columnspacing=1.4, handletextpad=0.5, labelspacing=0.3, borderpad=0.2,
    )  # fmt: skip
    for entry, text in zip(legend.get_texts(), texts, strict=True):
        entry.set_parse_math(False)
        entry.set_text(text)
    return legend


def _fitted(make: Callable[[int], Legend], count: int, room: float) -> Legend:
    """The legend with the most columns that fit in `room` pixels; one column if none does."""
    for columns in range(min(count, _MOST_COLUMNS), 0, -1):
        # 4 entries in 3 columns leave a row of one: no better than 2 and 2
        if math.ceil(count / columns) == math.ceil(count / max(columns - 1, 1)) and columns > 1:
            continue
        legend = make(columns)
        if columns == 1 or legend.get_window_extent().width <= room:
            return legend
        legend.remove()
    raise AssertionError("one column is always taken")


def _is_named(setting: Setting) -> bool:
    """Whether a label was given, and is not only the folder's name."""
    return len(setting.paths) > 1 or setting.label != setting.paths[0].name


def _setting_entries(runs: Mapping[str, int], style: Style, *, named: bool) -> list[Entry]:
    """`runs` is how many runs the lines of a setting are means of, by its label."""
    from matplotlib.lines import Line2D

    labels = [f"{label} ({count} runs)" if count > 1 else label for label, count in runs.items()]
    if len(labels) == 1:
        # colours tell metrics apart then, and the caption of a paper names the run
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
_AXIS_LABEL = 0.25  # inches that a panel does without where the one below has its axis


def make_picture(
    drawn: Drawn, style: Style, x: str, x_scale: XScale = "linear", width: float | None = None
) -> Figure:
    """Make the figure of these panels and series; call it under the rc parameters of `style`."""
    from matplotlib.figure import Figure

    labels = dict.fromkeys(series.setting.label for _, many in drawn for series in many)
    order = {label: place for place, label in enumerate(labels)}
    rows, columns, width = _grid(len(drawn), style, width)
    height = _height(style, width / columns)
    # a column of panels has one axis at its foot; the bars of a stack have their own
    shared = columns == 1 < rows and not any(is_stack(panel, order) for panel, _ in drawn)
    # made without pyplot, a Figure draws with Agg whatever the backend of the process
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
    # keys make a picture higher: they do not take from the axes
    figure.set_figheight(rows * height - (rows - 1) * _AXIS_LABEL * shared + keys)
    return figure


def _grid(count: int, style: Style, width: float | None) -> tuple[int, int, float]:
    """(rows, columns, width in inches), as even as possible."""
    if width is None:
        width = style.full_width or style.panel_width * min(count, 3)
    beside = max(1, min(count, int(width / style.narrowest)))
    rows = -(-count // beside)
    return rows, -(-count // rows), width


def _height(style: Style, panel_width: float) -> float:
    """Inches of a panel without its keys; a panel as wide as the page is flat."""
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
    # the keys are fitted to the width that the axes will have
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
