"""Which metrics are drawn together, and where an iteration's time went."""

from __future__ import annotations

from typing import Any

from raft.curves.panels import PANELS, Line, Panel, interval_of
from raft.metrics import number

__all__ = ["TIMES", "panels", "timeline"]

_DRAWN = ("reward", "gold", "win_rate", "kl", "length", "diversity", "perplexity")
_FURTHER = (
    Panel(
        "Responses cut at the limit",
        "share",
        (
            Line("eval/truncated_share", "held-out"),
            Line("rollout/truncated_share", "training batch", width=0.5),
        ),
    ),
    Panel("Training loss", "nats per token", (Line("train/loss", "loss"),)),
)

TIMES = ("generate", "score", "select", "train", "sync", "eval")


def panels(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The panels of `raft curves` that the run has something for, each with those of its lines."""
    known = {key for row in metrics for key in row if number(row, key) is not None}
    found = []
    for panel in (*(PANELS[name] for name in _DRAWN), *_FURTHER):
        lines = [_line(line, known) for line in panel.lines if line.metric in known]
        if lines:
            found.append(
                {
                    "title": panel.title,
                    "unit": panel.y_label,
                    "level": panel.level,
                    "lines": lines,
                }
            )
    return found


def _line(line: Line, known: set[str]) -> dict[str, Any]:
    interval = interval_of(line.metric)
    return {
        "key": line.metric,
        "label": line.label,
        "interval": interval if interval in known else None,
        "dash": line.style,
        "width": line.width,
    }


def timeline(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Seconds per iteration and stage; `other` is what no stage accounts for."""
    found = []
    for row in metrics:
        seconds = {
            name: value
            for name in TIMES
            if (value := number(row, f"time/{name}")) is not None and value >= 0
        }
        total = number(row, "time/iteration")
        if not seconds and total is None:
            continue
        spent = sum(seconds.values())
        # stages of a run that was killed and continued are not all in the last attempt's total
        whole = max(spent, total or 0.0)
        found.append(
            {"iteration": row["iteration"], "seconds": {**seconds, "other": whole - spent},
             "total": whole}
        )  # fmt: skip
    return found
