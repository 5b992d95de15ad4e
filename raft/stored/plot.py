"""Plot what each rule selects against K: reward, gold, length and diversity side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raft.curves.style import STYLES, line_style, picture_files, save_picture
from raft.stored.replay import Report
from raft.stored.summary import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_replay"]

_LOOK = STYLES["screen"]
_WIDTH = 3.3  # inches of a panel


@dataclass(frozen=True, slots=True)
class _Panel:
    """One pair of axes; `value` names one of an outcome's values, None its distinct-2."""

    title: str
    label: str
    value: str | None


def draw_replay(report: Report, out: Path) -> list[Path]:
    """Draw the report's results and return the picture files, as `picture_files` names them.

    Bands are 95 % intervals over prompts; a cross is the run's own selection. Raises InputError
    where a file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    rows = report.results
    panels = _panels(rows)
    files = picture_files(out)
    with matplotlib.rc_context(_LOOK.rc):
        figure = Figure(figsize=(_WIDTH * len(panels), _LOOK.height), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for panel, ax in zip(panels, axes, strict=True):
            _draw(ax, panel, rows)
        _add_key(figure, axes[0])
        for file in files:
            save_picture(figure, file, _LOOK.dpi)
    return files


def _panels(rows: Sequence[Outcome]) -> list[_Panel]:
    names = {name for row in rows for name in row["values"]}
    titles = {"score": "Score that selects", "reward": "Reward", "gold": "Gold reward"}
    found = [_Panel(title, name, name) for name, title in titles.items() if name in names]
    words = _Panel("Length", "words per row", "words")
    return [*found, words, _Panel("Diversity", "distinct-2", None)]


def _draw(ax: Axes, panel: _Panel, rows: Sequence[Outcome]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    labels = list(dict.fromkeys(row["rule"] for row in rows if row["rule"] != "as run"))
    for place, label in enumerate(labels):
        colour, marker = line_style(place)
        points = _points([row for row in rows if row["rule"] == label], panel)
        if not points:
            continue
        k, mean, low, high = (list(column) for column in zip(*points, strict=True))
        ax.plot(
            k, mean, color=colour, marker=marker, label=label,
            linewidth=_LOOK.line, markersize=_LOOK.marker,
        )  # fmt: skip
        ax.fill_between(k, low, high, color=colour, alpha=0.16, linewidth=0)
    own = _points([row for row in rows if row["rule"] == "as run"], panel)
    ax.plot(
        [point[0] for point in own], [point[1] for point in own], "x", color="black",
        markersize=9, markeredgewidth=1.6, label="as run" if own else "_",
    )  # fmt: skip
    ks = sorted({row["k"] for row in rows})
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(ks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([str(k) for k in ks])
    ax.set_xlabel("K samples per prompt")
    ax.set_ylabel(panel.label)
    if panel.value is None:  # a share: on a scale fitted to it, noise would look like a trend
        ax.set_ylim(bottom=0)
    ax.set_title(f"{panel.title} of the rows kept")


def _points(rows: Sequence[Outcome], panel: _Panel) -> list[tuple[int, float, float, float]]:
    """Return (K, mean, low, high) of each row that has the panel's value.

    Without an interval low and high are the mean.
    """
    found: list[tuple[int, float, float, float]] = []
    for row in rows:
        one = None if panel.value is None else row["values"].get(panel.value)
        mean = row["distinct_2"] if panel.value is None else one and one["mean"]
        if mean is None:
            continue
        low, high = (one["low"], one["high"]) if one is not None else (None, None)
        low, high = mean if low is None else low, mean if high is None else high
        found.append((row["k"], mean, low, high))
    return found


def _add_key(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5))
