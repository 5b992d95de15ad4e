"""A best-of-n curve as a table for a terminal."""

from __future__ import annotations

from typing import Any

__all__ = ["as_table"]


def as_table(found: dict[str, Any]) -> str:
    """Rows of n = 1, 2, 4 … and the last, out of what `raft.bon.best_of_n.best_of_n` returns."""
    curve = found["curve"]
    names = [name for name in curve[0] if name not in ("n", "kl")]
    called = {"proxy": found["by"], "gold": found["gold_by"]}
    if found["win_rate"]:
        called["gold"] = "win rate"
    shown = [row for row in curve if row["n"] & (row["n"] - 1) == 0 or row is curve[-1]]
    head = ["n", "KL", *(called[name] for name in names)]
    body = [
        [str(row["n"]), f"{row['kl']:.3f}", *(_cell(row[name]) for name in names)] for row in shown
    ]
    widths = [max(len(line[at]) for line in (head, *body)) for at in range(len(head))]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in (head, *body)
    ]
    peak = found["peak"].get("gold")
    if peak is not None and peak["over_optimized"]:
        among = "" if peak["prompts"] == found["prompts"] else f" of {peak['prompts']} prompts"
        lines.append(
            f"{called['gold']}{among} is highest at n = {peak['n']} ({peak['mean']:.4g}), above "
            f"the interval at n = {found['n']}: over-optimized"
        )
    return "\n".join(lines)


def _cell(point: dict[str, Any]) -> str:
    """The mean and its interval; nothing where nothing is known."""
    if point["mean"] is None:
        return "-"
    if point["low"] is None:
        return f"{point['mean']:.4g}"
    return f"{point['mean']:.4g} [{point['low']:.4g}, {point['high']:.4g}]"
