"""Learning curves of one run or several, out of `metrics.jsonl`, as PNG or SVG.

The bold line is the mean on the fixed held-out prompts, in a band of its 95 % interval. What is
measured on the batch that a policy trains on is drawn thin and named so.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raft.files import full_disk_is_the_users
from raft.metrics import read_metrics
from rollout.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito: told apart with any colour vision, and in greyscale print
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_SUFFIXES = (".png", ".svg")
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "raft",  # the same run draws the same file
}


@dataclass(frozen=True, slots=True)
class Line:
    """One metric in a panel. `interval` is the metric that holds its half width."""

    metric: str
    label: str
    interval: str | None = None
    style: Literal["-", "--"] = "-"
    width: float = 1.8
    alpha: float = 1.0


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    y_label: str
    lines: tuple[Line, ...]


_REWARD = Panel(
    "Reward on held-out prompts",
    "reward",
    (
        Line("eval/reward_mean", "mean, 95 % interval", "eval/reward_ci95"),
        Line("eval/best_of_k", "best of K", style="--", width=1.3),
        Line("rollout/reward_mean", "training batch", width=0.8, alpha=0.75),
    ),
)
_GOLD = Panel(
    "Gold reward on held-out prompts",
    "gold reward",
    (Line("eval/gold_mean", "mean, 95 % interval", "eval/gold_ci95"),),
)


def draw_curves(
    run_dirs: Sequence[str | Path],
    out: str | Path,
    *,
    metrics: Sequence[str] | None = None,
    x: str = "iteration",
) -> list[Path]:
    """Draw the runs' curves in one picture and return the files written.

    Args:
        run_dirs: run folders; a run is named after its folder.
        out: a `.png` or `.svg` file; without a suffix, one of each is written.
        metrics: a panel for each of these keys, instead of reward and (where a run has it) gold.
        x: the key on the horizontal axis.

    Raises:
        InputError: for a folder without metrics, a broken line, a run without any row that has the
            metrics, an unknown metric, or another suffix.
    """
    files = _files(Path(out))
    if not run_dirs:
        raise InputError("raft curves: no run given; name one run folder or more")
    paths = _names(run_dirs)
    runs = {name: read_metrics(path) for name, path in paths.items()}
    panels = _panels(runs, metrics)
    for name, path in paths.items():
        _check_drawable(path, runs[name], panels, x)
    figure = _draw(runs, panels, x)
    for file in files:
        _save(figure, file)
    return files


def _files(out: Path) -> list[Path]:
    if not out.suffix:
        return [out.with_suffix(suffix) for suffix in _SUFFIXES]
    if out.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{out}: cannot draw {out.suffix}; end the name in .png or .svg")
    return [out]


def _names(run_dirs: Sequence[str | Path]) -> dict[str, Path]:
    """Runs by folder name, and by as much of the path as differs where two have one name."""
    given = {Path(os.path.abspath(run_dir)): Path(run_dir) for run_dir in run_dirs}
    times = Counter(folder.name for folder in given)
    above = os.path.commonpath([folder.parent for folder in given])
    return {
        folder.name if times[folder.name] == 1 else str(folder.relative_to(above)): path
        for folder, path in given.items()
    }


def _panels(runs: dict[str, list[dict[str, Any]]], metrics: Sequence[str] | None) -> list[Panel]:
    known = _numeric_keys(runs)
    if not metrics:
        return [_REWARD, _GOLD] if "eval/gold_mean" in known else [_REWARD]
    for metric in metrics:
        if metric not in known:
            raise InputError(f"{metric}: no run has it; choose from {', '.join(sorted(known))}")
    return [_panel_of(metric) for metric in metrics]


def _panel_of(metric: str) -> Panel:
    # what is measured on the prompts that are trained on is never shown without saying so
    training = metric.startswith(("rollout/", "select/", "train/"))
    title = f"{metric} (training batch)" if training else metric
    if not metric.endswith("_mean"):
        return Panel(title, metric, (Line(metric, metric),))
    line = Line(metric, "mean, 95 % interval", metric.removesuffix("_mean") + "_ci95")
    return Panel(title, metric, (line,))


def _check_drawable(path: Path, rows: list[dict[str, Any]], panels: list[Panel], x: str) -> None:
    first_metrics = [panel.lines[0].metric for panel in panels]
    for row in rows:
        if _number(row, x) is not None and any(_number(row, m) is not None for m in first_metrics):
            return
    raise InputError(
        f"{path / 'metrics.jsonl'}: no row has {' or '.join(first_metrics)} against {x}; "
        "run it until its first evaluation, or leave this run out"
    )


def _numeric_keys(runs: dict[str, list[dict[str, Any]]]) -> set[str]:
    rows = (row for run in runs.values() for row in run)
    return {key for row in rows for key in row if _number(row, key) is not None}


def _number(row: dict[str, Any], key: str) -> float | None:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _draw(runs: dict[str, list[dict[str, Any]]], panels: list[Panel], x: str) -> Figure:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        # a Figure of its own, without pyplot, draws with Agg whatever backend the process has
        figure = Figure(figsize=(4.6 * len(panels), 3.4), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for panel, ax in zip(panels, axes, strict=True):
            for (name, rows), color in zip(runs.items(), _colors(len(runs)), strict=True):
                for line in panel.lines:
                    _draw_line(ax, rows, line, x, color, name)
            _label(ax, panel, x)
            _add_style_legend(ax, panel, runs)
        _add_run_legend(figure, list(runs))
    return figure


def _colors(count: int) -> list[str]:
    return [_PALETTE[i % len(_PALETTE)] for i in range(count)]


def _draw_line(
    ax: Axes, rows: list[dict[str, Any]], line: Line, x: str, color: str, run: str
) -> None:
    points = sorted(
        (at, value, (_number(row, line.interval) or 0.0) if line.interval else 0.0)
        for row in rows
        if (at := _number(row, x)) is not None and (value := _number(row, line.metric)) is not None
    )
    if not points:
        return
    at, mean, half = zip(*points, strict=True)
    held_out = line.style == "-" and line.alpha == 1.0
    ax.plot(
        at,
        mean,
        line.style,
        color=color,
        linewidth=line.width,
        alpha=line.alpha,
        # few evaluations are seen as points; a single one is nothing but its point
        marker="o" if len(at) == 1 or (held_out and len(at) <= 25) else None,
        markersize=3.5,
        gid=f"{run} {line.metric}",
    )
    if any(half):
        low = [m - h for m, h in zip(mean, half, strict=True)]
        high = [m + h for m, h in zip(mean, half, strict=True)]
        ax.fill_between(at, low, high, color=color, alpha=0.16, linewidth=0)


def _label(ax: Axes, panel: Panel, x: str) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_title(panel.title, loc="left", fontweight="bold")
    ax.set_ylabel(panel.y_label)
    ax.set_xlabel("iteration (0 = before training)" if x == "iteration" else x)
    if x == "iteration":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(length=0)
    ax.margins(x=0.03)


def _add_style_legend(ax: Axes, panel: Panel, runs: dict[str, list[dict[str, Any]]]) -> None:
    """What the line styles mean, in grey, for those the panel shows."""
    from matplotlib.lines import Line2D

    known = _numeric_keys(runs)
    shown = [line for line in panel.lines if line.metric in known]
    handles = [
        Line2D([], [], color="#444444", linestyle=line.style, linewidth=line.width)
        for line in shown
    ]
    # a run without intervals is not said to have them
    labels = [
        "mean" if line.interval and line.interval not in known else line.label for line in shown
    ]
    if len(shown) > 1 or (shown and shown[0].interval):
        ax.legend(handles, labels, loc="best", handlelength=2.2)


def _add_run_legend(figure: Figure, names: list[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, linewidth=2.5, label=name)
        for name, color in zip(names, _colors(len(names)), strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(names), 4))


def _save(figure: Figure, file: Path) -> None:
    import matplotlib

    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial{file.suffix}")
    metadata = {"Date": None} if file.suffix.lower() == ".svg" else None
    with full_disk_is_the_users(file), matplotlib.rc_context(_STYLE):
        figure.savefig(partial, dpi=200, metadata=metadata)
    # a picture appears whole or not at all
    os.replace(partial, file)
