"""Plot gold of the selected responses against responses and against forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.stories import panel
from experiments.tournament.study import Row

__all__ = ["draw"]

# Okabe & Ito
_WAYS = {
    "scalar, best of n": ("#0072B2", "scalar reward, best of n"),
    "judge, knockout": ("#D55E00", "judge, knockout"),
    "judge, round_robin": ("#009E73", "judge, round robin"),
}


def draw(rows: Sequence[Row], out: Path) -> None:
    """Draw two panels that share the gold axis; bars are 95 % intervals over prompts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for ax, x, label in ((left, "entrants", "responses"), (right, "passes", "forward passes")):
        for way, (color, name) in _WAYS.items():
            _draw_way(ax, [row for row in rows if row.way == way], x, color, name)
        ax.set_xscale("log", base=2)
        panel.label(ax, None, f"{label} per prompt")
    left.set_ylabel("gold of the chosen one")
    right.legend(frameon=False, fontsize=8, loc="upper left")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=115)


def _draw_way(ax: Any, rows: Sequence[Row], x: str, color: str, name: str) -> None:
    points = sorted({(getattr(row, x), row.gold, row.half) for row in rows})
    at, gold, half = zip(*points, strict=True)
    ax.errorbar(at, gold, half, color=color, label=name, marker="o", markersize=4, capsize=2)
