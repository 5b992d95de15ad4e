"""Plot gold against iteration for each group of runs, and RAFT and best-of-n at equal KL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.raft_sweep.study import GROUPS, LABELS
from experiments.stories import panel

__all__ = ["draw"]

# Okabe & Ito
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def draw(found: dict[str, Any], out: Path) -> None:
    """Draw four panels; bands are 95 % intervals over held-out prompts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.2), layout="constrained")
    axes = figure.subplots(2, 2).ravel()
    for ax, (title, names) in zip(axes, GROUPS.items(), strict=False):
        for name, color in zip(names, _COLORS, strict=False):
            label = "persistent" if title == "optimizer" and name == "k8" else LABELS[name]
            label = "T = 1" if title.startswith("temperature") and name == "k8" else label
            _curve(ax, found["runs"][name], "at", label, color)
        _label(ax, title, "iteration")
    for name, color in zip(GROUPS["samples per prompt"], _COLORS, strict=True):
        _curve(axes[3], found["runs"][name], "kl", f"RAFT, {LABELS[name]}", color)
    best = found["best_of_n"]
    axes[3].plot(
        [p["kl"] for p in best], [p["gold"] for p in best], "--", color="#444444",
        label="best of n, n = 1 to 256",
    )  # fmt: skip
    _label(axes[3], "RAFT beside best-of-n", "KL to the starting policy, nats")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=115)


def _curve(ax: Any, points: list[dict[str, float]], x: str, label: str, color: str) -> None:
    at, gold = [p[x] for p in points], [p["gold"] for p in points]
    half = [p["gold_ci95"] for p in points]
    ax.plot(at, gold, color=color, linewidth=1.6, marker="o", markersize=3, label=label)
    low = [g - h for g, h in zip(gold, half, strict=True)]
    high = [g + h for g, h in zip(gold, half, strict=True)]
    ax.fill_between(at, low, high, color=color, alpha=0.12, linewidth=0)


def _label(ax: Any, title: str, x: str) -> None:
    panel.label(ax, title, x, "gold reward, held-out prompts")
    ax.legend(frameon=False, fontsize=8)
