"""Measure how much responses repeat themselves and each other, in evaluations and selected rows.

`measure` holds the distinct words and pairs of words in memory but not the texts, so its size
grows with the vocabulary.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raft.monitor.ngrams import words
from rollout.data.samples import SampleRow

__all__ = [
    "diversity_metrics",
    "duplicate_share",
    "measure",
    "msttr",
    "text_key",
]

_SEGMENT = 100


def diversity_metrics(texts: Sequence[str]) -> dict[str, float]:
    """Return `eval/msttr` and `eval/duplicate_share`, each only where it is known."""
    duplicates = duplicate_share([text_key(text) for text in texts])
    found = {"eval/msttr": msttr(texts), "eval/duplicate_share": duplicates}
    return {key: value for key, value in found.items() if math.isfinite(value)}


def msttr(texts: Sequence[str], segment: int = _SEGMENT) -> float:
    """Return the mean segmental type-token ratio (Johnson 1944): the share of distinct words in
    each segment of `segment` words, averaged over segments.

    Texts are taken end to end, lower-cased, without punctuation; words after the last whole segment
    are ignored. Unlike distinct-n it does not fall with the amount of text. NaN where there are
    fewer words than one segment has.
    """
    ratios: list[float] = []
    held: list[str] = []
    for text in texts:
        held += words(text)
        while len(held) >= segment:
            ratios.append(len(set(held[:segment])) / segment)
            held = held[segment:]
    return sum(ratios) / len(ratios) if ratios else math.nan


def text_key(text: str) -> int:
    """Return a number that is the same for equal texts, blanks around them aside."""
    return hash(text.strip())


def duplicate_share(keys: ArrayLike) -> float:
    """Return the share of the texts, given by their `text_key`, that equal another one.

    All copies count, the first one too. NaN for no texts.
    """
    _, counts_U = np.unique(np.asarray(keys, dtype=np.int64), return_counts=True)
    total = counts_U.sum()
    return float(counts_U[counts_U > 1].sum() / total) if total else math.nan


Flags = NDArray[np.bool_]
Whole = NDArray[np.int64]
Words = defaultdict[str, int]  # numbers new words as they come
_AT_A_TIME = 1 << 18


def measure(rows: Iterable[SampleRow], picks: Sequence[Flags]) -> list[dict[str, float]]:
    """Return measures of the samples that each of `picks`, flags (P, N), selects from P rows.

    `distinct_1` and `distinct_2` are those of `rewards.evaluation.stats.distinct_n`, and
    `duplicate_share` is the function above. NaN where there are no words or no samples.
    """
    words: Words = defaultdict(itertools.count().__next__)
    key_PN = np.zeros(picks[0].shape, dtype=np.int64)
    ones, twos = [_Kinds() for _ in picks], [_Kinds() for _ in picks]
    for key_N, row, picked_CN in zip(key_PN, rows, np.stack(picks, axis=1), strict=True):
        needed = np.flatnonzero(picked_CN.any(axis=0)).tolist()
        for k in needed:
            key_N[k] = text_key(row.responses[k])
        single = {k: _word_ids(row.responses[k], words) for k in needed}
        double = {k: (ids_T[:-1] << 32) | ids_T[1:] for k, ids_T in single.items()}
        for c, k in np.argwhere(picked_CN).tolist():
            ones[c].add(single[k])
            twos[c].add(double[k])
    return [
        {
            "distinct_1": one.share,
            "distinct_2": two.share,
            "duplicate_share": duplicate_share(key_PN[pick_PN]),
        }
        for one, two, pick_PN in zip(ones, twos, picks, strict=True)
    ]


class _Kinds:
    """A count of numbers and of distinct numbers; `share` is the distinct ones' part of all."""

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


def _word_ids(text: str, words: Words) -> Whole:
    found = text.split()
    return np.fromiter(map(words.__getitem__, found), np.int64, len(found))
