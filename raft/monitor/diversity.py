"""How much responses repeat themselves and each other: of an evaluation, and of selected rows.

Only the words and pairs of words that occur are held in memory, not the texts: it grows with the
vocabulary.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from raft.monitor.ngrams import words
from rollout.data.samples import SampleRow

__all__ = [
    "diversity_metrics",
    "duplicate_share",
    "measure",
    "msttr",
]

_SEGMENT = 100


def diversity_metrics(texts: Sequence[str]) -> dict[str, float]:
    """`eval/msttr` (without it where there are too few words for one segment) and
    `eval/duplicate_share`."""
    found = {"eval/msttr": msttr(texts), "eval/duplicate_share": duplicate_share(texts)}
    return {key: value for key, value in found.items() if math.isfinite(value)}


def msttr(texts: Sequence[str], segment: int = _SEGMENT) -> float:
    """Mean segmental type-token ratio (Johnson 1944): the share of distinct words in each segment
    of `segment` words, averaged over segments.

    Texts are taken end to end, lower-cased, without punctuation; words that fill no segment are
    ignored. Unlike distinct-n it does not fall with the amount of text. NaN for too few words.
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


Flags = NDArray[np.bool_]
Whole = NDArray[np.int64]
_AT_A_TIME = 1 << 18


def measure(
    rows: Iterable[SampleRow], picks: Sequence[Flags], text_PN: Whole
) -> list[dict[str, float]]:
    """Of each pick, flags (P, N) of the samples that are kept of P rows; NaN of no words or rows.

    `distinct_1` and `distinct_2` as `rewards.evaluation.stats.distinct_n` counts them;
    `duplicate_share` of the kept rows have a text that another kept row before them has (`text_PN`:
    equal for equal texts).
    """
    words: dict[str, int] = {}
    ones, twos = [_Kinds() for _ in picks], [_Kinds() for _ in picks]
    for row, picked_CN in zip(rows, np.stack(picks, axis=1), strict=True):
        needed = np.flatnonzero(picked_CN.any(axis=0)).tolist()
        single = {k: _word_ids(row.responses[k], words) for k in needed}
        double = {k: (ids_T[:-1] << 32) | ids_T[1:] for k, ids_T in single.items()}
        for c, k in np.argwhere(picked_CN).tolist():
            ones[c].add(single[k])
            twos[c].add(double[k])
    return [
        {
            "distinct_1": one.share,
            "distinct_2": two.share,
            "duplicate_share": _repeated(text_PN[pick_PN]),
        }
        for one, two, pick_PN in zip(ones, twos, picks, strict=True)
    ]


def _repeated(text_M: Whole) -> float:
    return 1.0 - len(np.unique(text_M)) / len(text_M) if len(text_M) else math.nan


class _Kinds:
    """Which numbers were seen, and how many in all."""

    def __init__(self) -> None:
        self._seen: Whole = np.zeros(0, dtype=np.int64)
        self._new: list[Whole] = []
        self._waiting = self._total = 0

    def add(self, numbers: Whole) -> None:
        self._new.append(numbers)
        self._waiting += len(numbers)
        self._total += len(numbers)
        if self._waiting > _AT_A_TIME:
            self._settle()

    @property
    def share(self) -> float:
        self._settle()
        return len(self._seen) / self._total if self._total else math.nan

    def _settle(self) -> None:
        # np.unique hashes whole numbers, which is several times slower than to sort them
        found = np.sort(np.concatenate([self._seen, *self._new]))
        self._seen = found[np.diff(found, prepend=-1) != 0]
        self._new, self._waiting = [], 0


def _word_ids(text: str, words: dict[str, int]) -> Whole:
    return np.array([words.setdefault(word, len(words)) for word in text.split()], dtype=np.int64)
