"""The numbers, the table and the figure of a run with a learned reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raft.runs.metrics import read_metrics
from rollout.storage.files import read_rows

__all__ = ["agreement", "as_markdown", "draw", "measure"]


def measure(run: Path) -> list[dict[str, Any]]:
    """Return one row per evaluation: means, half widths of their intervals, and `agreement`."""
    found = []
    for row in read_metrics(run):
        if "eval/gold_mean" not in row:
            continue
        samples = list(read_rows(run / "iterations" / f"{row['iteration']:03d}" / "eval.jsonl"))
        proxy_PK = np.array([one["scores"] for one in samples], dtype=np.float64)
        gold_PK = np.array([one["gold_scores"] for one in samples], dtype=np.float64)
        found.append(
            {
                "iteration": row["iteration"],
                "proxy": row["eval/reward_mean"],
                "proxy_ci95": row["eval/reward_ci95"],
                "gold": row["eval/gold_mean"],
                "gold_ci95": row["eval/gold_ci95"],
                "kl": row.get("eval/kl_k1"),
                "distinct_2": row.get("eval/distinct_2"),
                "agreement": agreement(proxy_PK, gold_PK),
            }
        )
    return found


def agreement(proxy_PK: np.ndarray, gold_PK: np.ndarray) -> float | None:
    """Return the share of pairs with unequal gold, within prompts, that the proxy orders as gold.

    Scores are (P, K); equal proxies count half. None where no pair differs in gold.
    """
    first, second = np.triu_indices(proxy_PK.shape[1], k=1)
    by_gold = np.sign(gold_PK[:, first] - gold_PK[:, second])
    by_proxy = np.sign(proxy_PK[:, first] - proxy_PK[:, second])
    told = by_gold != 0
    return float(((1 + by_gold * by_proxy)[told] / 2).mean()) if told.any() else None


def as_markdown(found: Mapping[str, Any]) -> str:
    model, seconds = found["reward_model"], found["seconds"]
    lines = [
        f"Reward model: {model['pairs/train']} pairs, {model['eval/accuracy']:.1%} "
        f"({model['eval/accuracy_low']:.1%} to {model['eval/accuracy_high']:.1%}) of "
        f"{model['pairs/held_out']} held-out pairs. "
        f"{', '.join(f'{name} {value:.0f} s' for name, value in seconds.items())}.",
        "",
        "| iteration | proxy | gold | pairs ordered as gold does | KL | distinct-2 |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["iterations"]:
        lines.append(
            f"| {row['iteration']} | {row['proxy']:.2f} ± {row['proxy_ci95']:.2f} "
            f"| {row['gold']:.2f} ± {row['gold_ci95']:.2f} | {_share(row['agreement'])} "
            f"| {_number(row['kl'])} | {_number(row['distinct_2'])} |"
        )
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot proxy, gold and their agreement against the iteration, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.0), constrained_layout=True)
    at = [row["iteration"] for row in rows]
    panels = (("proxy", "learned reward (the proxy)", "C0"), ("gold", "gold function", "C2"))
    for axis, (key, title, colour) in zip(axes, panels, strict=False):
        mean = np.array([row[key] for row in rows])
        half = np.array([row[f"{key}_ci95"] for row in rows])
        axis.plot(at, mean, color=colour, marker="o", markersize=3)
        axis.fill_between(at, mean - half, mean + half, color=colour, alpha=0.2, linewidth=0)
        axis.set_title(title, fontsize=10)
    shares = [np.nan if row["agreement"] is None else 100 * row["agreement"] for row in rows]
    axes[2].plot(at, shares, color="C3", marker="o", markersize=3)
    axes[2].axhline(50, color="0.6", linewidth=0.8, linestyle="--")
    axes[2].set_title("pairs ordered as gold orders them, %", fontsize=10)
    for axis in axes:
        axis.set_xlabel("RAFT iteration")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
