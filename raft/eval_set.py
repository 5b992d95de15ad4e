"""A whole set to evaluate on: its rows, read again for each reward, and arrays of what they are.

What stays in memory is numbers, some dozens of bytes per response: texts are read anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from raft.eval_rows import EvalRow, RowParser
from rewards.evaluation.forms import Form
from rollout.data.rows import Source, find_source, read_rows
from rollout.errors import InputError
from rollout.progress import Progress

__all__ = ["EvalSet", "read_set"]


@dataclass(frozen=True, slots=True, eq=False)
class EvalSet:
    """N rows, R responses of all rows in order, M pairs of them.

    Args:
        gold_R: known value of each response; NaN where it is not known.
        length_R: characters of each; NaN where there is no text.
        row_R, row_M: the row of each response and pair.
        better_M, worse_M: responses, by their place among R.
        prompt_N: number of the row's prompt: equal prompts have one number.
        turns_N: user turns of the prompt.
    """

    source: Source
    split: str
    form: Form
    gold: str | None
    ids: tuple[str, ...]
    source_N: tuple[str, ...]
    prompt_N: np.ndarray
    turns_N: np.ndarray
    gold_R: np.ndarray
    length_R: np.ndarray
    row_R: np.ndarray
    row_M: np.ndarray
    better_M: np.ndarray
    worse_M: np.ndarray

    def rows(self) -> Iterator[EvalRow]:
        """Every row once more."""
        parser = RowParser(self.source.stem, self.form, self.gold)
        return (parser.parse(row) for row in read_rows(self.source, split=self.split))

    @property
    def prompt_M(self) -> np.ndarray:
        return self.prompt_N[self.row_M]

    @property
    def source_M(self) -> list[str]:
        return [self.source_N[row] for row in self.row_M]

    @property
    def extra_length_M(self) -> np.ndarray:
        """Characters that the better response has more than the worse."""
        return self.length_R[self.better_M] - self.length_R[self.worse_M]

    def margins(self, scores_R: np.ndarray) -> np.ndarray:
        """(M,): the better response's score minus the worse's."""
        return scores_R[self.better_M] - scores_R[self.worse_M]

    def per_row(self, values_R: np.ndarray) -> list[np.ndarray]:
        """Values of each row's responses."""
        return np.split(values_R, np.flatnonzero(np.diff(self.row_R)) + 1)


def read_set(
    name: str, *, form: Form | None = None, gold: str | None = None, split: str = "train"
) -> EvalSet:
    """Read and check every row of a file or a dataset.

    Raises InputError: no such file, a row that cannot be read, no rows, rows without two responses
    of which one is better.
    """
    try:
        source = find_source(name)
    except InputError as error:  # the reader of files speaks of a config's keys
        raise InputError(str(error).replace("the path in prompts.path", "the path")) from error
    parser, facts = RowParser(source.stem, form, gold), _Facts()
    with Progress("checking", 0) as bar:
        for row in read_rows(source, split=split):
            facts.add(parser.parse(row))
            bar.advance()
    if not facts.ids:
        raise InputError(f"{name}: holds no rows; name a file with at least one")
    if not facts.better:
        raise InputError(
            f"{name}: no pair of responses of which one is better, all are equally good; "
            "nothing can be told apart, give rows that differ"
        )
    assert parser.form is not None, "a row was read"
    return facts.as_set(source, split, parser.form, gold)


class _Facts:
    """What is kept of rows, one at a time."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.better: list[int] = []
        self._worse: list[int] = []
        self._row_of_pair: list[int] = []
        self._sources: list[str] = []
        self._names: dict[str, str] = {}
        self._prompts: dict[bytes, int] = {}
        self._prompt: list[int] = []
        self._turns: list[int] = []
        self._gold: list[float] = []
        self._length: list[float] = []
        self._row_of_response: list[int] = []

    def add(self, row: EvalRow) -> None:
        number, start = len(self.ids), len(self._gold)
        for better, worse in row.pairs:
            self.better.append(start + better)
            self._worse.append(start + worse)
            self._row_of_pair.append(number)
        self.ids.append(row.id)
        self._sources.append(self._names.setdefault(row.source, row.source))
        self._prompt.append(self._prompts.setdefault(row.prompt_digest, len(self._prompts)))
        self._turns.append(row.turns)
        self._gold += row.gold
        self._length += map(len, row.texts) if row.groups else [math.nan] * len(row.gold)
        self._row_of_response += [number] * len(row.gold)

    def as_set(self, source: Source, split: str, form: Form, gold: str | None) -> EvalSet:
        def whole(values: list[int]) -> np.ndarray:
            return np.array(values, dtype=np.int64)

        return EvalSet(
            source=source,
            split=split,
            form=form,
            gold=gold,
            ids=tuple(self.ids),
            source_N=tuple(self._sources),
            prompt_N=whole(self._prompt),
            turns_N=whole(self._turns),
            gold_R=np.array(self._gold),
            length_R=np.array(self._length),
            row_R=whole(self._row_of_response),
            row_M=whole(self._row_of_pair),
            better_M=whole(self.better),
            worse_M=whole(self._worse),
        )
