"""JudgeBench (Tan et al. 2024): groups of sources, and decisions taken in both orders."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["GROUPS", "LABELS", "group_of", "vote"]

LABELS = ("A>B", "B>A")
# how the benchmark's sources begin -> the group of its tables
GROUPS = {
    "mmlu-pro": "Knowledge",
    "livebench-reasoning": "Reasoning",
    "livebench-math": "Mathematics",
    "livecodebench": "Coding",
}
_SWAPPED = {"A>B": "B>A", "B>A": "A>B"}


def group_of(source: str) -> str:
    """Knowledge, Reasoning, Mathematics or Coding; "Other" for a source of none."""
    return next((group for start, group in GROUPS.items() if source.startswith(start)), "Other")


def vote(decisions: Sequence[str | None], label: str) -> float:
    """What decisions in turn (A, B), (B, A) come to, in [−1, 1]: right above 0, 0 a tie.

    The first is about A and B as they stand, the second as they stand swapped. A decision for
    the label is +1, against it −1, a tie or none 0, and their mean is taken, so that two that
    contradict each other are a tie, which loses, as in the benchmark's own count. NaN where no
    decision was taken at all.
    """
    if all(decision is None for decision in decisions):
        return math.nan
    total = 0
    for number, decision in enumerate(decisions):
        seen = _SWAPPED.get(decision or "", "") if number % 2 else decision
        total += (seen == label) - (seen == _SWAPPED[label])
    return total / len(decisions)
