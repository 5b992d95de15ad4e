"""Read stored samples into arrays of scores and lengths, without holding their texts in memory.

Axes in names: P prompts, N stored samples of one prompt. Where prompts have unequal numbers of
samples, the places after a prompt's last one are not drawn (`drawn_PN`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raft.selection.filters import Filters
from raft.selection.rows import selectable_scores
from raft.stored.rules import Scoring
from rollout.data.samples import REWARD, Comparison, SampleRow

__all__ = ["Pool", "read_pool", "value_name"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The samples of one part, an iteration or a file, from which rules select together.

    Attributes:
        numbers: for each prompt, the numbers of its samples as they are stored.
        score_PN: the score that selects; NaN where it is missing.
        refused_PN: unselectable by a filter that looks at the text alone.
        first_PN: place of the prompt's first sample with the same text.
        values: name -> (P, N): the stored scores, and lengths in words, chars and tokens.
        refused: how many samples each of these filters makes unselectable, and how many have no
            score.
        own_PN: scores as the run's own selector saw them; None without a run.
        wins_PNN: stored P(the first sample is better than the second), by first_PN; NaN where it
            is not stored. None where no row has comparisons.
    """

    ids: list[str]
    numbers: list[Sequence[int]]
    drawn_PN: Flags
    score_PN: Floats
    refused_PN: Flags
    first_PN: NDArray[np.int64]
    values: dict[str, Floats]
    refused: dict[str, int]
    own_PN: Floats | None
    wins_PNN: Floats | None

    @property
    def samples(self) -> int:
        """Return N, the most samples that a prompt has."""
        return self.drawn_PN.shape[1]


def read_pool(
    rows: Iterable[SampleRow],
    scoring: Scoring,
    filters: Filters,
    own_filters: Filters | None = None,
    *,
    scored: bool = True,
) -> Pool | None:
    """Read a part's rows in order and return their pool; None where there are no rows.

    Args:
        filters: filters of the rules that are tried.
        own_filters: filters of the run itself; None without a run.
        scored: False where rows need no scores because stored comparisons select.

    Raises:
        InputError: a row without the scores that select.
    """
    reader = _Reader(scoring, filters, own_filters, scored)
    for row in rows:
        reader.add(row)
    return reader.pool() if reader.rows else None


def value_name(column: str) -> str:
    """Return a column's name in the report: "reward" for `scores`, "NAME" for `NAME_scores`."""
    return "reward" if column == REWARD else column.removesuffix("_scores")


class _Reader:
    def __init__(
        self,
        scoring: Scoring,
        filters: Filters,
        own_filters: Filters | None,
        scored: bool,
    ) -> None:
        self._scoring, self._scored = scoring, scored
        # filters that depend on a prompt's other samples are applied to each subset, in `subsets`
        self._text_filters: Filters = {
            **filters, "min_score": None, "min_spread": None, "unique": False
        }  # fmt: skip
        self._own_filters = own_filters
        self._ids: list[str] = []
        self._numbers: list[Sequence[int]] = []
        self._columns: dict[str, list[Sequence[float]]] = {}
        self._own: list[Floats] = []
        self._texts: list[list[int]] = []
        self._refused: list[Flags] = []
        self._counts: Counter[str] = Counter()
        self._comparisons: list[list[Comparison] | None] = []

    def add(self, row: SampleRow) -> None:
        texts = row.responses
        self._ids.append(row.id)
        self._numbers.append(row.numbers)
        self._texts.append([hash(text) for text in texts])
        if self._scored:
            self._keep("", self._scoring.scores(row))
        for column, scores in row.scores.items():
            self._keep(value_name(column), [np.nan if s is None else s for s in scores])
        self._keep("words", [len(text.split()) for text in texts])
        self._keep("chars", [len(text) for text in texts])
        if row.token_ids:
            self._keep("tokens", [len(ids) for ids in row.token_ids])
        # scores of 0 pass every filter that looks at texts
        passed_K, counts = selectable_scores(row, self._text_filters, [0.0] * len(texts))
        self._refused.append(np.isnan(passed_K))
        self._counts.update({name: n for name, n in counts.items() if name != "not_finite"})
        if self._own_filters is not None:
            scores = row.scores.get(REWARD, [None] * len(texts))
            self._own.append(selectable_scores(row, self._own_filters, scores)[0])
        self._comparisons.append(row.comparisons)

    @property
    def rows(self) -> int:
        return len(self._ids)

    def pool(self) -> Pool:
        counts_P = np.array([len(texts) for texts in self._texts])
        drawn_PN = np.arange(counts_P.max())[None, :] < counts_P[:, None]
        values = {name: _padded(rows, drawn_PN) for name, rows in self._columns.items()}
        score_PN = values.pop("", np.full(drawn_PN.shape, np.nan))
        first = [_firsts(texts) for texts in self._texts]
        return Pool(
            ids=self._ids,
            numbers=self._numbers,
            drawn_PN=drawn_PN,
            score_PN=np.where(np.isfinite(score_PN), score_PN, np.nan),
            refused_PN=_padded(self._refused, drawn_PN) == 1,
            first_PN=_padded_whole(first, drawn_PN),
            values={name: np.where(np.isfinite(v), v, np.nan) for name, v in values.items()},
            refused=self._reasons(score_PN, drawn_PN),
            own_PN=_padded(self._own, drawn_PN) if self._own else None,
            wins_PNN=_wins(self._comparisons, first, drawn_PN),
        )

    def _reasons(self, score_PN: Floats, drawn_PN: Flags) -> dict[str, int]:
        missing = int((drawn_PN & ~np.isfinite(score_PN)).sum()) if self._scored else 0
        counts = {"not_finite": missing, **self._counts}
        return {name: count for name, count in counts.items() if count}

    def _keep(self, name: str, values: Sequence[float]) -> None:
        rows = self._columns.setdefault(name, [])
        # earlier rows may lack this column
        while len(rows) < len(self._ids) - 1:
            rows.append([])
        rows.append(values)


def _padded(rows: Sequence[Sequence[float] | Floats | Flags], drawn_PN: Flags) -> Floats:
    found_PN = np.full(drawn_PN.shape, np.nan)
    for p, row in enumerate(rows):
        found_PN[p, : len(row)] = row
    return found_PN


def _padded_whole(rows: Sequence[Sequence[int]], drawn_PN: Flags) -> NDArray[np.int64]:
    found_PN = np.zeros(drawn_PN.shape, dtype=np.int64)
    for p, row in enumerate(rows):
        found_PN[p, : len(row)] = row
    return found_PN


def _firsts(texts_K: Sequence[int]) -> list[int]:
    places: dict[int, int] = {}
    return [places.setdefault(text, k) for k, text in enumerate(texts_K)]


def _wins(
    comparisons: Sequence[list[Comparison] | None], firsts: Sequence[list[int]], drawn_PN: Flags
) -> Floats | None:
    if all(found is None for found in comparisons):
        return None
    prompts, samples = drawn_PN.shape
    wins_PNN = np.full((prompts, samples, samples), np.nan)
    for p, found in enumerate(comparisons):
        for i, j, probability in found or ():
            if probability is not None:
                first, second = firsts[p][i], firsts[p][j]
                wins_PNN[p, first, second] = probability
                wins_PNN[p, second, first] = 1.0 - probability
    return wins_PNN
