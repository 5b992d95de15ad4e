"""Plot gold and proxy against KL: a row per kind of labels, best-of-n left, RAFT right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.overoptimization.study import FLIPPED, PROXIES
from experiments.stories import panel

__all__ = ["draw"]

# Okabe & Ito
_COLORS = {"bt": "#D55E00", "mean": "#0072B2", "min": "#56B4E9", "grm": "#009E73"}
_NAMES = {
    "bt": "Bradley–Terry",
    "mean": "ensemble of 3, mean",
    "min": "ensemble of 3, minimum",
    "grm": "GRM",
}


def draw(found: dict[str, Any], out: Path) -> None:
    """Draw gold bold with its 95 % interval, and the proxy dashed, scaled to start at gold."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.4), layout="constrained")
    axes = figure.subplots(len(FLIPPED), 2, sharey="row", squeeze=False)
    for row, (noise, flipped) in zip(axes, FLIPPED.items(), strict=True):
        for ax, way in zip(row, ("best_of_n", "raft"), strict=True):
            for proxy in PROXIES:
                _draw_curve(ax, found[f"{proxy}_{noise}"][way], _COLORS[proxy])
            if way == "best_of_n":
                points = found["gold"]["best_of_n"]
                ax.plot(
                    [p["kl"] for p in points], [p["gold"] for p in points], ":", color="#444444"
                )
            _label(ax, way, flipped)
    _legend(figure)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=115)


def _draw_curve(ax: Any, points: list[dict[str, float]], color: str) -> None:
    if not points:
        return
    kl = [p["kl"] for p in points]
    start = points[0]["gold"] - points[0]["proxy"]
    ax.plot(kl, [p["gold"] for p in points], color=color, linewidth=1.8, marker="o", markersize=3)
    ax.fill_between(
        kl, [p["gold_low"] for p in points], [p["gold_high"] for p in points],
        color=color, alpha=0.15, linewidth=0,
    )  # fmt: skip
    ax.plot(kl, [p["proxy"] + start for p in points], "--", color=color, linewidth=0.9, alpha=0.8)


def _label(ax: Any, way: str, flipped: float) -> None:
    what = "Best of n, n = 1 to 256" if way == "best_of_n" else "RAFT iterations"
    y = "gold reward" if way == "best_of_n" else None
    panel.label(ax, f"{what}, {flipped:.0%} of labels wrong", "KL to the starting policy, nats", y)


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=_COLORS[proxy], label=_NAMES[proxy]) for proxy in PROXIES]
    handles += [
        Line2D([], [], color="#444444", label="gold, 95 % interval"),
        Line2D([], [], color="#444444", linestyle="--", linewidth=0.9,
               label="proxy, in its spread at the start"),
        Line2D([], [], color="#444444", linestyle=":", label="chosen by gold itself"),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
