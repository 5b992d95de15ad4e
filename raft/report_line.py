"""One line of text per iteration, for logs and terminals."""

from __future__ import annotations

from typing import Any


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
