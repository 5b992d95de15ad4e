"""Openings of stories as prompts, each of which is in one file only, once."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

__all__ = ["openings", "write_openings"]

_FIRST_WORDS = 8
_SEPARATOR = "<|endoftext|>"


def openings() -> list[str]:
    """Return the distinct first words of the stories in TinyStories' excerpt, in a fixed order."""
    from experiments.data import data
    from rollout.data.prompts import read_prompts

    stories = data("data/tinystories/train.txt.gz")
    found = read_prompts(stories, separator=_SEPARATOR, first_words=_FIRST_WORDS)
    texts = list(dict.fromkeys(str(prompt.content) for prompt in found))
    random.Random(0).shuffle(texts)
    return texts


def write_openings(folder: Path, counts: Mapping[str, int]) -> None:
    """Write `NAME.jsonl` with that many prompts each, in order; existing files are not changed."""
    texts = openings()
    if sum(counts.values()) > len(texts):
        raise SystemExit(f"{sum(counts.values())} prompts asked for, {len(texts)} openings found")
    folder.mkdir(parents=True, exist_ok=True)
    start = 0
    for name, count in counts.items():
        path = folder / f"{name}.jsonl"
        if not path.exists():
            rows = ({"prompt": text} for text in texts[start : start + count])
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        start += count
