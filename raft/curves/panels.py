"""The panels that can be drawn, and the selection of those that a picture shows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from rollout.errors import InputError

__all__ = ["PANELS", "Line", "Panel", "axis_label", "interval_of", "select_panels"]


@dataclass(frozen=True, slots=True)
class Line:
    """One metric in a panel.

    Attributes:
        band: draw its interval, where there is one.
        detail: drawn only where the panel shows a single setting.
        tint: number of its colour where the picture shows a single setting.
    """

    metric: str
    label: str
    style: Literal["-", "--", "-.", ":"] = "-"
    width: float = 1.0
    band: bool = True
    detail: bool = False
    tint: int = 0


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes.

    Attributes:
        level: a horizontal line to read values against.
        change: draw the change from the first value, so that different scales begin together.
        stack: draw the lines of a single run as stacked bars.
    """

    title: str
    y_label: str
    lines: tuple[Line, ...]
    level: float | None = None
    change: bool = False
    stack: bool = False


_BATCH = Line("rollout/reward_mean", "training batch", width=0.5, band=False, detail=True)
_STAGES = ("generate", "score", "select", "train", "sync", "eval")
PANELS: dict[str, Panel] = {
    "reward": Panel(
        "Held-out reward",
        "reward",
        (
            Line("eval/reward_mean", "mean"),
            Line("eval/best_of_k", "best of K", "--", 0.75, band=False, detail=True),
            _BATCH,
        ),
    ),
    "gold": Panel("Held-out gold reward", "gold reward", (Line("eval/gold_mean", "mean"),)),
    # Gao et al. 2022 (arXiv 2210.10760) draw the gold reward solid and its proxy dashed
    "proxy_gold": Panel(
        "Proxy and gold reward",
        "change from the start",
        (
            Line("eval/gold_mean", "gold"),
            Line("eval/reward_mean", "proxy (optimised)", "--", tint=1),
        ),
        change=True,
    ),
    "win_rate": Panel(
        "Win rate against the start",
        "win rate",
        (
            Line("eval/win_rate", "by the reward"),
            Line("eval/gold_win_rate", "by the gold", "--", tint=1),
        ),
        level=0.5,
    ),
    "kl": Panel(
        "KL to the starting policy",
        "nats per response",
        (Line("eval/kl_k1", "k1"), Line("eval/kl_k3", "k3", "--", 0.75, band=False, detail=True)),
    ),
    "length": Panel("Held-out response length", "tokens", (Line("eval/length_mean", "mean"),)),
    "diversity": Panel(
        "Held-out diversity",
        "share",
        (
            Line("eval/distinct_2", "distinct-2"),
            Line("eval/distinct_1", "distinct-1", "--", 0.75, detail=True, tint=1),
            Line("eval/msttr", "MSTTR", "-.", 0.75, detail=True, tint=2),
            Line("eval/duplicate_share", "duplicates", ":", 0.9, detail=True, tint=4),
        ),
    ),
    "perplexity": Panel(
        "Perplexity of reference text", "perplexity", (Line("eval/perplexity", "mean"),)
    ),
    "ratio": Panel(
        "Ratio to the policy that drew",
        "ratio, share",
        (
            Line("train/ratio_mean", "mean ratio"),
            Line("train/clip_share", "share of tokens clipped", "--", 0.75, tint=1),
        ),
        level=1.0,
    ),
    "early_rejection": Panel(
        "Rejecting early",
        "correlation, share",
        (Line("rollout/foresight", "foresight"), Line("rollout/tokens_saved", "tokens saved")),
    ),
    "pairs": Panel(
        "Pairs in training",
        "share, margin",
        (
            Line("train/pair_accuracy", "better one preferred"),
            Line("train/pair_margin", "margin", "--", 0.75, tint=1),
        ),
    ),
    "update_kl": Panel(
        "KL in training",
        "nats per token",
        (
            Line("train/kl_drawn", "to the policy that drew"),
            Line("train/kl_start", "to the start", "--", tint=1),
        ),
    ),
    "entropy": Panel("Entropy in training", "nats per token", (Line("train/entropy", "mean"),)),
    "grad_norm": Panel("Gradient norm", "before clipping", (Line("train/grad_norm", "mean"),)),
    "time": Panel(
        "Time per iteration",
        "seconds",
        (
            *(Line(f"time/{stage}", stage, detail=True) for stage in _STAGES),
            Line("time/iteration", "whole iteration"),
        ),
        stack=True,
    ),
}
_AXES = {
    "iteration": "iteration (0 = before training)",
    "eval/kl_k1": "KL to the starting policy (nats)",
    "eval/kl_k3": "KL to the starting policy, k3 (nats)",
    "eval/gold_mean": "held-out gold reward",
    "eval/reward_mean": "held-out reward",
    "eval/length_mean": "held-out response length (tokens)",
}
# prefixes of metrics on the prompts that are trained on, which are always labelled as such
_TRAINING = ("rollout/", "select/", "train/")


def axis_label(x: str) -> str:
    return _AXES.get(x, x)


def interval_of(metric: str) -> str:
    """Return the key under which a row has the half width of a metric's 95 % interval."""
    return metric.removesuffix("_mean") + "_ci95"


def select_panels(
    known: Collection[str],
    names: Sequence[str] | None,
    metrics: Sequence[str] | None,
    x: str,
) -> list[Panel]:
    """Return the panels `names`, then one for each of `metrics`; by default those that runs fill.

    Args:
        known: the keys that have a number in any run.
        x: the key on the horizontal axis.

    Raises:
        InputError: for a panel or a key that no run has.
    """
    if x != "iteration" and x not in known:
        raise InputError(f"--x {x}", "no run has this metric", _known_keys(known))
    if not names and not metrics:
        names = _defaults(known, x)
    return [
        *(_named(name, known, x) for name in names or ()),
        *(_of_metric(metric, known) for metric in metrics or ()),
    ]


def _defaults(known: Collection[str], x: str) -> list[str]:
    gold, reward = "eval/gold_mean" in known, "eval/reward_mean" in known
    if x.startswith("eval/kl") and gold and reward:
        return ["proxy_gold"]
    found = ["reward"] if reward else []
    # a judge's scores have no mean: its curve is the win rate
    if "eval/win_rate" in known and (not reward or ("eval/gold_win_rate" in known and not gold)):
        found.append("win_rate")
    if gold:
        found.append("gold")
    if "eval/kl_k1" in known and not x.startswith("eval/kl"):
        found.append("kl")
    return found or ["reward"]


def _named(name: str, known: Collection[str], x: str) -> Panel:
    if name not in PANELS:
        raise InputError(f"--panels {name}", "no such panel", f"use one of {', '.join(PANELS)}")
    panel = PANELS[name]
    # a training batch is drawn by the previous policy: on an axis other than the iteration, such
    # as the KL, its value would be at another policy's place
    lines = [line for line in panel.lines if x == "iteration" or not _training(line.metric)]
    present = tuple(line for line in lines if line.metric in known)
    if all(line.detail for line in present):
        wanted = " or ".join(line.metric for line in panel.lines if not line.detail)
        raise InputError(
            f"--panels {name}", f"no run has an evaluation with {wanted}", "draw another panel"
        )
    if panel.change and len(present) < len(lines):
        missing = next(line.metric for line in lines if line not in present)
        raise InputError(f"--panels {name}", f"no run has {missing}", "draw another panel")
    return Panel(
        panel.title, panel.y_label, present, panel.level, panel.change,
        stack=panel.stack and x == "iteration",
    )  # fmt: skip


def _of_metric(metric: str, known: Collection[str]) -> Panel:
    if metric not in known:
        raise InputError(f"--metrics {metric}", "no run has this metric", _known_keys(known))
    title = f"{metric} (training batch)" if _training(metric) else metric
    return Panel(title, metric, (Line(metric, "mean" if metric.endswith("_mean") else metric),))


def _training(metric: str) -> bool:
    return metric.startswith(_TRAINING)


def _known_keys(known: Collection[str]) -> str:
    return f"use one of {', '.join(sorted(known))}" if known else "wait for the first evaluation"
