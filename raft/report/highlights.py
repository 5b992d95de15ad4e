"""Lists of samples to look at first: best, worst, most changed, proxy and gold far apart."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter

from raft.report.page import SampleEntry, SampleList
from raft.report.samples import Index, Stage, sample_rows, start_of

__all__ = ["changed", "disagreeing", "extremes", "with_excerpts"]

LENGTH = 12
_EXCERPT = 220

Figures = list[tuple[str, float]]
_first = itemgetter(0)


def extremes(index: Index, stage: int) -> tuple[list[SampleEntry], list[SampleEntry]]:
    """Return (best, worst): the samples of highest and of lowest reward, one of each prompt."""
    best: list[tuple[float, int, int]] = []  # score, sample, row
    worst: list[tuple[float, int, int]] = []
    for row, scores_K in enumerate(index.scores.get("reward", [])):
        known = [(score, k) for k, score in enumerate(scores_K) if score is not None]
        if known:
            best.append((*max(known, key=lambda one: (one[0], -one[1])), row))
            worst.append((*min(known), row))
    return (
        [_of(stage, row, k, index) for _, k, row in heapq.nlargest(LENGTH, best, key=_first)],
        [_of(stage, row, k, index) for _, k, row in heapq.nsmallest(LENGTH, worst, key=_first)],
    )


def changed(first: Index, last: Index, stage: int) -> tuple[list[SampleEntry], list[SampleEntry]]:
    """Return (risen, fallen): the prompts whose mean reward moved most between two evaluations."""
    before = dict(zip(first.ids, map(_mean, first.scores.get("reward", [])), strict=False))
    moved: list[tuple[float, SampleEntry]] = []
    for row, scores_K in enumerate(last.scores.get("reward", [])):
        start, end = before.get(last.ids[row]), _mean(scores_K)
        if start is not None and end is not None:
            figures = [("first", start), ("last", end), ("change", end - start)]
            moved.append((end - start, SampleEntry(stage=stage, row=row, figures=figures)))
    risen = heapq.nlargest(LENGTH, moved, key=_first)
    fallen = heapq.nsmallest(LENGTH, moved, key=_first)
    return [entry for by, entry in risen if by > 0], [entry for by, entry in fallen if by < 0]


def disagreeing(index: Index, stage: int) -> list[SampleEntry]:
    """Return the samples that proxy and gold score most differently, one of each prompt.

    Those that the proxy scores higher come first, since a policy that exploits the proxy has such
    samples. Each reward is standardised over the samples of the stage; where all its scores are
    equal or missing, the list is empty.
    """
    proxy, gold = index.scores.get("reward", []), index.scores.get("gold", [])
    scale, gold_scale = _scale(proxy), _scale(gold)
    if scale is None or gold_scale is None:
        return []
    found: list[tuple[float, float, int, int]] = []
    for row, (scores_K, golds_K) in enumerate(zip(proxy, gold, strict=True)):
        gaps = [
            ((score - scale[0]) / scale[1] - (other - gold_scale[0]) / gold_scale[1], k)
            for k, (score, other) in enumerate(zip(scores_K, golds_K, strict=False))
            if score is not None and other is not None
        ]
        if gaps:
            gap, k = max(gaps, key=lambda one: abs(one[0]))
            found.append((abs(gap), gap, k, row))
    largest = heapq.nlargest(LENGTH, found, key=_first)
    largest.sort(key=lambda one: one[1] < 0)  # within each, the furthest apart first
    names = {True: "proxy above gold by", False: "gold above proxy by"}
    return [_of(stage, row, k, index, [(names[gap > 0], size)]) for size, gap, k, row in largest]


def with_excerpts(lists: Iterable[SampleList], stage: Stage, advance: Callable[[], None]) -> None:
    """Fill in the beginnings of prompts and responses by reading the file a second time."""
    wanted: dict[int, list[SampleEntry]] = {}
    for entry in (entry for one in lists for entry in one["entries"]):
        wanted.setdefault(entry["row"], []).append(entry)
    last = max(wanted, default=-1)
    # damaged rows were reported at the first reading
    for number, row in enumerate(sample_rows(stage.path, stage.name, lambda _: None)):
        if number > last:
            break
        advance()
        for entry in wanted.get(number, []):
            entry["prompt"] = start_of(row["prompt"])
            if "sample" in entry:
                entry["response"] = row["responses"][entry["sample"]][:_EXCERPT]


def _of(stage: int, row: int, k: int, index: Index, more: Figures | None = None) -> SampleEntry:
    figures = [
        (name, score)
        for name, column in index.scores.items()
        if k < len(column[row]) and (score := column[row][k]) is not None
    ]
    return SampleEntry(stage=stage, row=row, sample=k, figures=[*figures, *(more or [])])


def _mean(scores_K: list[float | None]) -> float | None:
    known = [score for score in scores_K if score is not None]
    mean = sum(known) / len(known) if known else math.inf
    return mean if math.isfinite(mean) else None


def _scale(scores_PK: Sequence[Sequence[float | None]]) -> tuple[float, float] | None:
    """Return the mean and standard deviation of the known scores.

    None where they are all equal, fewer than two, or too large for a float's arithmetic.
    """
    known = [score for scores_K in scores_PK for score in scores_K if score is not None]
    if len(known) < 2:
        return None
    mean = sum(known) / len(known)
    # a product, not a power: that would raise where scores are enormous
    deviation = math.sqrt(sum((s - mean) * (s - mean) for s in known) / (len(known) - 1))
    return (mean, deviation) if 0 < deviation < math.inf else None
