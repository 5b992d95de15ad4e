"""The report of `raft eval-pool` as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewards.evaluation.markdown import table

__all__ = ["as_markdown"]

_NAMES = {"pass": "pass@k", "maj": "maj@k", "weighted_maj": "weighted maj@k", "rm": "rm@k"}


def as_markdown(report: Mapping[str, Any]) -> str:
    """What the pool holds, a row per k, and how it was estimated."""
    rows = report["results"]
    metrics = [name for name in _NAMES if name in rows[0]]
    cells = [
        [str(row["k"]), f"{row['pass']['questions']:,}", *(_cell(row[name]) for name in metrics)]
        for row in rows
    ]
    made = table(["k", "questions", *(_NAMES[name] for name in metrics)], cells)
    return f"# {Path(report['pool']).name}\n\n{_facts_line(report)}\n\n{made}\n\n{_notes(report)}\n"


def _facts_line(report: Mapping[str, Any]) -> str:
    share = report["right"] / report["responses"]
    found = (
        f"{report['questions']:,} questions, {report['responses']:,} responses, {share:.1%} right; "
        f"{report['without_number']:,} give no number."
    )
    if report["unanswered"]:
        found += f" {report['unanswered']:,} questions without an answer are left out."
    if report["without_score"]:
        found += f" {report['without_score']:,} responses have no score."
    return found


def _notes(report: Mapping[str, Any]) -> str:
    lines = [
        f"Means over questions with 95 % intervals, from {report['resamples']:,} resamples of "
        "questions; exact expectations over all subsets of k responses.",
        "pass@k: one of k is right. maj@k: the right number has most votes (a tie is shared).",
    ]
    if report["weighted"]:
        what = "scores" if report["weighted"] == "sum" else "sigmoids of scores"
        lines.append(
            f"weighted maj@k: votes count their {what}; mean over {report['draws']} random subsets "
            f"(seed {report['seed']})."
        )
    if report["scores"]:
        lines.append(f"rm@k: the response with the highest of {report['scores']} is right.")
    short = {
        row["k"]: report["questions"] - row["pass"]["questions"]
        for row in report["results"]
        if row["pass"]["questions"] < report["questions"]
    }
    if short:
        named = ", ".join(f"k = {k}: {count:,}" for k, count in short.items())
        lines.append(f"Questions left out for having fewer than k responses: {named}.")
    return "\n".join(lines)


def _cell(one: Mapping[str, Any]) -> str:
    if one["mean"] is None:
        return "–"
    mean = f"{100 * one['mean']:.1f} %"
    return (
        mean if one["low"] is None else f"{mean} [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"
    )
