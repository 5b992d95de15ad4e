"""Read a run's `metrics.jsonl`: one JSON object per line, one line per iteration and phase.

One line of text per iteration, for logs and terminals.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rollout.errors import InputError

__all__ = [
    "number",
    "read_metrics",
]


def read_metrics(
    run_dir: str | Path, *, on_damage: Callable[[str], None] | None = None
) -> list[dict[str, Any]]:
    """One dict per iteration, in order: the rows of its phases merged, `phase` left out.

    Where two rows give one key, the later line counts, as it does after a resumed run.

    Args:
        on_damage: called with what is wrong with a broken line, which is then left out; without
            it a broken line is an error.

    Raises:
        InputError: for a missing folder or file, and for a broken line, which it names.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise InputError(run_dir, "no such run folder", "name the run_dir of a run")
    file = run_dir / "metrics.jsonl"
    if not file.is_file():
        raise InputError(run_dir, "holds no metrics.jsonl", "name a run that `raft run` has begun")
    merged: dict[int, dict[str, Any]] = {}
    with file.open("rb") as lines:
        for line_number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = _row(line, f"{file}:{line_number}")
            except InputError as error:
                if on_damage is None:
                    raise
                on_damage(str(error))
            else:
                merged.setdefault(row["iteration"], {}).update(row)
    for row in merged.values():
        row.pop("phase", None)
    return [merged[iteration] for iteration in sorted(merged)]


def number(row: dict[str, Any], key: str) -> float | None:
    """The finite number under `key`; None for anything else."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an int that no float holds
        return None


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # covers bytes that are not UTF-8
        raise InputError(where, "not valid JSON", "fix or delete the line") from None
    iteration = row.get("iteration") if isinstance(row, dict) else None
    if not isinstance(iteration, int) or isinstance(iteration, bool):
        raise InputError(where, "no whole number as iteration", "fix or delete the line")
    return row


def report_line(rows: list[dict[str, Any]], iteration: int) -> str:
    """What iteration `iteration` did to the held-out reward, and where its time went."""
    merged: dict[str, Any] = {}
    for row in rows:
        if row["iteration"] == iteration:
            merged |= row
    parts = [f"iteration {iteration}"]
    if "eval/reward_mean" in merged:
        parts.append(f"held-out reward {_with_interval(merged, 'eval/reward')}")
        parts.append(f"best of K {merged['eval/best_of_k']:.3f}")
    if "eval/gold_mean" in merged:
        parts.append(f"gold {_with_interval(merged, 'eval/gold')}")
    if "eval/win_rate" in merged:
        half_width = merged.get("eval/win_rate_ci95", 0.0)
        parts.append(f"wins {merged['eval/win_rate']:.2f} ± {half_width:.2f} of the start")
    if merged.get("eval/kl_k1"):
        parts.append(f"KL {merged['eval/kl_k1']:.2f} ± {merged.get('eval/kl_k1_ci95', 0.0):.2f}")
    if "select/reward_mean" in merged:
        # points of a tournament are no reward
        won = "winners" if "rollout/judge_comparisons" in merged else None
        reward = won or f"at {merged['select/reward_mean']:.3f}"
        parts.append(f"kept {merged['select/kept']} {reward}")
    if "train/loss" in merged:
        parts.append(f"loss {merged['train/loss']:.3f}")
    if "rollout/tokens_per_second" in merged:
        parts.append(f"{merged['rollout/tokens_per_second']:,.0f} tokens/s")
    if "time/iteration" in merged:
        parts.append(f"{merged['time/iteration']:.1f} s")
    return " | ".join(parts)


def _with_interval(row: dict[str, Any], key: str) -> str:
    half_width = row.get(f"{key}_ci95")
    mean = f"{row[f'{key}_mean']:.3f}"
    return mean if half_width is None else f"{mean} ± {half_width:.3f}"
