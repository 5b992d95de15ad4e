"""The table of the five recipes, as Markdown and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.reward_models.pairs import HELD_OUT, TRAIN
from rollout.storage.files import write_json, write_whole

__all__ = ["as_markdown", "write_tables"]

_HEADER = (
    "recipe", "starts from", "parameters", "seconds", "tokens/s", "accuracy (95 %)",
    "better is longer / shorter", "over length alone (95 %)", "largest difference after reload",
)  # fmt: skip


def write_tables(folder: Path, rows: Sequence[Mapping[str, Any]], counts: Mapping[str, Any]) -> str:
    """Write `results.json` and `results.md` to `folder`; return the Markdown."""
    text = as_markdown(rows, counts)
    write_json(folder / "results.json", {"data": counts, "recipes": list(rows)})
    write_whole(folder / "results.md", text)
    return text


def as_markdown(rows: Sequence[Mapping[str, Any]], counts: Mapping[str, Any]) -> str:
    train, held_out = counts[TRAIN], counts[HELD_OUT]
    lines = [
        f"{train['pairs']} pairs to train on, {held_out['pairs']} held out by prompt; "
        f"{train['too_long']} and {held_out['too_long']} of more than {counts['longest']} tokens "
        "a side are left out.",
        "",
        "| " + " | ".join(_HEADER) + " |",
        "|" + "---|" * len(_HEADER),
        *("| " + " | ".join(_cells(row)) + " |" for row in rows),
    ]
    if rows:
        length = rows[0]["length"]
        cells = ["the longer answer", *["–"] * 4, _share(length), *["–"] * 3]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cells(row: Mapping[str, Any]) -> list[str]:
    gain, speed, seconds = row["over_length"], row["tokens_per_second"], row["seconds"]
    sides = (row["better_longer"]["accuracy"], row["better_shorter"]["accuracy"])
    return [
        row["recipe"],
        row["base"].replace("_", " "),
        f"{row['parameters']:,}",
        "–" if seconds is None else f"{seconds:.0f}",
        "–" if speed is None else f"{speed:,.0f}",
        _share(row["accuracy"]),
        " / ".join("–" if side is None else f"{side:.1%}" for side in sides),
        f"{gain['difference']:+.1%} ({gain['low']:+.1%} to {gain['high']:+.1%})",
        f"{row['largest_difference']:.1e}",
    ]


def _share(found: Mapping[str, float]) -> str:
    return f"{found['accuracy']:.1%} ({found['low']:.1%} to {found['high']:.1%})"
