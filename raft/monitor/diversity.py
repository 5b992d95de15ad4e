"""How much the responses of one evaluation repeat themselves and each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from raft.monitor.grams import words

__all__ = ["diversity_metrics", "duplicate_share", "msttr"]

_SEGMENT = 100


def diversity_metrics(texts: Sequence[str]) -> dict[str, float]:
    """`eval/msttr` (left out where there are too few words for one segment) and
    `eval/duplicate_share`."""
    found = {"eval/msttr": msttr(texts), "eval/duplicate_share": duplicate_share(texts)}
    return {key: value for key, value in found.items() if math.isfinite(value)}


def msttr(texts: Sequence[str], segment: int = _SEGMENT) -> float:
    """Mean segmental type-token ratio (Johnson 1944): the share of distinct words in each segment
    of `segment` words, averaged over segments.

    Texts are taken end to end, lower-cased, without punctuation; words that fill no segment are
    left out. Unlike distinct-n it does not fall with the amount of text. NaN for too few words.
    """
    ratios: list[float] = []
    held: list[str] = []
    for text in texts:
        held += words(text)
        while len(held) >= segment:
            ratios.append(len(set(held[:segment])) / segment)
            held = held[segment:]
    return sum(ratios) / len(ratios) if ratios else math.nan


def duplicate_share(texts: Sequence[str]) -> float:
    """Share of the texts that equal another one, blanks around them aside. NaN for no texts."""
    counts = Counter(text.strip() for text in texts)
    return sum(n for n in counts.values() if n > 1) / len(texts) if texts else math.nan
