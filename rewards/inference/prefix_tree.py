"""Rows of token ids laid end to end, every shared beginning once. Knows nothing of models.

K responses to one prompt share the prompt's tokens, and the comparisons of a judge share more. In
a causal model those tokens have the same hidden states in every row, so one copy serves all. There
is no padding either: on a CPU, where padding costs as much as text, that is most of the gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

__all__ = ["Segment", "Tree", "grow", "new_tokens", "reading_order"]

Ids = Sequence[int]
# a shared beginning shorter than this costs more in bookkeeping than it saves
_SHORTEST_SHARED = 16


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens `start` … `end` of one or more rows, at `offset` of the packed sequence.

    They attend to all segments of `ancestors`, from the root on, and causally to themselves.
    """

    start: int
    end: int
    offset: int
    ancestors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tree:
    """Packed ids and positions (T,), the segments, and the numbers of those that make each row."""

    ids_T: np.ndarray
    positions_T: np.ndarray
    segments: tuple[Segment, ...]
    paths: tuple[tuple[int, ...], ...]

    def index(self, row: int, position: int) -> int:
        """Return where token `position` of `row` stands in the packed sequence.

        Raises IndexError where the row has no such token.
        """
        for number in self.paths[row]:
            segment = self.segments[number]
            if segment.start <= position < segment.end:
                return segment.offset + position - segment.start
        raise IndexError(f"row {row} has no token {position}")


def reading_order(rows: Sequence[Ids]) -> list[int]:
    """Return the row numbers in an order that makes rows with a common beginning neighbours."""
    return sorted(range(len(rows)), key=lambda row: tuple(rows[row]))


def new_tokens(rows: Sequence[Ids], order: Sequence[int]) -> list[int]:
    """Return how many tokens each row of `order` adds to the packed sequence of those before it."""
    shared = [0, *(_shared(rows[a], rows[b]) for a, b in pairwise(order))]
    return [
        len(rows[row]) - (same if same >= _SHORTEST_SHARED else 0)
        for row, same in zip(order, shared, strict=True)
    ]


def grow(rows: Sequence[Ids]) -> Tree:
    """Build the tree of `rows`, none of them empty.

    Rows keep their numbers, whatever their order in the packed sequence.
    """
    order = reading_order(rows)
    # shared_N[i]: common tokens of the i-th row in order and the one before it
    shared_N = np.array([0, *(_shared(rows[a], rows[b]) for a, b in pairwise(order))])
    found = _Found([], [], [], [()] * len(rows))
    todo = [(0, len(order), 0, ())]
    while todo:
        low, high, depth, path = todo.pop()
        if high - low == 1:
            row = order[low]
            found.paths[row] = found.add(rows[row], depth, len(rows[row]), path)
            continue
        common = int(shared_N[low + 1 : high].min())
        if common - depth >= _SHORTEST_SHARED:
            path, depth = found.add(rows[order[low]], depth, common, path), common
        cuts = [i for i in range(low + 1, high) if shared_N[i] < depth + _SHORTEST_SHARED]
        bounds = [low, *cuts, high]
        todo += [(a, b, depth, path) for a, b in pairwise(bounds)]
    return Tree(
        np.array(found.ids, dtype=np.int64),
        np.array(found.positions, dtype=np.int64),
        tuple(found.segments),
        tuple(found.paths),
    )


@dataclass(slots=True)
class _Found:
    ids: list[int]
    positions: list[int]
    segments: list[Segment]
    paths: list[tuple[int, ...]]

    def add(self, row: Ids, start: int, end: int, path: tuple[int, ...]) -> tuple[int, ...]:
        """Add a segment of tokens `start` … `end` of `row`; return `path` with it at its end.

        Without tokens, where a row is another's beginning, no segment is added.
        """
        if start == end:
            return path
        self.segments.append(Segment(start, end, len(self.ids), path))
        self.ids += row[start:end]
        self.positions += range(start, end)
        return (*path, len(self.segments) - 1)


def _shared(left: Ids, right: Ids) -> int:
    size = min(len(left), len(right))
    different = np.flatnonzero(np.asarray(left[:size]) != np.asarray(right[:size]))
    return int(different[0]) if len(different) else size
