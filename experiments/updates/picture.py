"""Plot gold against samples and against KL for each update, at its best learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.stories import panel
from experiments.updates.measure import Point

__all__ = ["draw"]

# Okabe & Ito
_COLORS = (
    "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#444444", "#999999",
)  # fmt: skip
_TITLES = {"words": "word list", "learned": "learned reward"}

Runs = Mapping[str, Mapping[str, Sequence[Sequence[Point]]]]  # reward -> label -> seeds


def draw(runs: Runs, out: Path) -> None:
    """Draw a row of panels per reward; lines are means over seeds, bands their range."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4 * len(runs)), layout="constrained")
    rows = figure.subplots(len(runs), 3, squeeze=False)
    for axes, (reward, labels) in zip(rows, runs.items(), strict=True):
        for (label, seeds), color in zip(labels.items(), _COLORS, strict=False):
            for ax, (x, y) in zip(axes, _PANELS, strict=True):
                _curve(ax, seeds, x, y, label, color)
        for ax, (x, y) in zip(axes, _PANELS, strict=True):
            panel.label(ax, _TITLES[reward], _AXES[x], _AXES[y])
        axes[0].legend(frameon=False, fontsize=7)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=115)


_PANELS = (("samples", "reward"), ("samples", "gold"), ("kl", "gold"))
_AXES = {
    "samples": "samples drawn",
    "kl": "KL to the starting policy, nats",
    "reward": "reward, held-out prompts",
    "gold": "gold, held-out prompts",
}


def _curve(
    ax: Any, seeds: Sequence[Sequence[Point]], x: str, y: str, label: str, color: str
) -> None:
    x_SE, y_SE = (np.array([[getattr(p, name) for p in run] for run in seeds]) for name in (x, y))
    at = x_SE.mean(axis=0)
    ax.plot(
        at, y_SE.mean(axis=0), color=color, linewidth=1.6, marker="o", markersize=3, label=label
    )
    ax.fill_between(at, y_SE.min(axis=0), y_SE.max(axis=0), color=color, alpha=0.12, linewidth=0)
