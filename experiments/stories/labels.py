"""Preference pairs of samples, ordered by the gold reward, some with flipped labels."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.stories.gold import gold

__all__ = ["label", "write_pairs"]


def label(rows: Iterable[Mapping[str, Any]], flipped: float, seed: int = 0) -> list[dict[str, str]]:
    """Return pairs of two neighbouring responses of a row whose gold differs.

    As in GRM's paper (arXiv 2406.10216), the response with more gold is chosen, then each pair is
    flipped with probability `flipped`.
    """
    rng = random.Random(seed)
    pairs = []
    for row in rows:
        texts = row["responses"]
        for first, second in zip(texts[::2], texts[1::2], strict=False):
            gold_first, gold_second = gold([row["prompt"]] * 2, [first, second])
            # drawn for ties too, so that the flipped pairs do not depend on the gold reward
            wrong = rng.random() < flipped
            if gold_first == gold_second:
                continue
            if (gold_first < gold_second) != wrong:
                first, second = second, first
            pairs.append({"prompt": row["prompt"], "chosen": first, "rejected": second})
    return pairs


def write_pairs(samples: Path, out: Path, flipped: float, limit: int | None = None) -> int:
    """Write the first `limit` pairs of a file of samples once; return their number."""
    if not out.exists():
        with open(samples, encoding="utf-8") as lines:
            pairs = label(map(json.loads, lines), flipped)[:limit]
        out.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return sum(1 for _ in open(out, encoding="utf-8"))
