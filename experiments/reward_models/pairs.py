"""HH-RLHF's dev pairs as two files that every recipe reads: `train.jsonl` and `held_out.jsonl`.

Pairs are held out by their first turn. All recipes train, and are measured, on the same pairs.
Skipped are pairs with a side that is longer than the limit, by the rule of the HH recipe's card,
and those with two turns of one speaker in a row, which a pairwise judge cannot read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rewards.data.pair import Pair
from rewards.data.read import read_pairs, split_pairs
from rollout.storage.files import read_json, whole_file, write_json

__all__ = [
    "FILES", "HELD_OUT", "TRAIN", "read_counts", "read_split", "short_enough", "write_counts",
    "write_pairs",
]  # fmt: skip

TRAIN, HELD_OUT, COUNTS = "train.jsonl", "held_out.jsonl", "pairs.json"
FILES = ("helpful-base", "helpful-rejection-sampled")
_SIDES = ("chosen", "rejected")


def read_split(
    root: Path, *, held_out: int, limit: int | None, seed: int
) -> tuple[list[Pair], list[Pair], list[str]]:
    """Return training pairs, about `held_out` held-out pairs, and counts of the files' rows.

    `root` holds hh-rlhf's dev files; `limit` is per file. Raises `InputError` for what cannot be
    read.
    """
    sources = [{"path": str(root / f"{name}.jsonl.gz"), "limit": limit} for name in FILES]
    found = read_pairs(sources, seed=seed)
    pairs = [pair for pair in found.pairs if _takes_turns(pair)]
    read = (line.replace(f"{root}/", "") for line in found.report.lines())
    lines = [*read, f"{len(found.pairs) - len(pairs)} with two turns of one side"]
    split = split_pairs(pairs, held_out, seed)
    return split.train, split.held_out, lines


def _takes_turns(pair: Pair) -> bool:
    """Tell whether user and assistant alternate, user first and last, as a judge requires."""
    roles = [message["role"] for message in pair.prompt]
    return roles == [("user", "assistant")[at % 2] for at in range(len(roles))] and roles[-1:] == [
        "user"
    ]


def short_enough(
    pairs: Sequence[Pair], tokens: Callable[[Sequence[Any]], list[int]], longest: int
) -> list[Pair]:
    """Return the pairs without a side longer than `longest` tokens, which `tokens` counts."""
    lengths = [tokens([pair.conversation(side) for pair in pairs]) for side in _SIDES]
    return [pair for pair, *both in zip(pairs, *lengths, strict=True) if max(both) <= longest]


def write_pairs(file: Path, pairs: Sequence[Pair]) -> None:
    """Write the pairs as lists of messages, which training and evaluation both read."""
    with whole_file(file) as lines:
        for pair in pairs:
            lines.write(json.dumps(_row(pair), ensure_ascii=False) + "\n")


def write_counts(folder: Path, counts: dict[str, Any]) -> None:
    """Write the counts, the last file of the data: where it exists, the data are complete."""
    write_json(folder / COUNTS, counts)


def read_counts(folder: Path) -> dict[str, Any] | None:
    """Return the counts that `write_counts` wrote; None where the data are not complete."""
    return read_json(folder / COUNTS) if (folder / COUNTS).exists() else None


def _row(pair: Pair) -> dict[str, Any]:
    return {
        "id": pair.id,
        "source": pair.source,
        **{side: [dict(m) for m in pair.conversation(side)] for side in _SIDES},
    }
