"""Read a pool of responses to questions: which responses are right, and which agree on a number."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from raft.stored.source import find_samples
from rewards.combine.checks import finite_number
from rewards.evaluation.pass_at_k import SILENT
from rewards.functions.numeric_match import read_number, read_reference
from rollout.data.bad_rows import BadRows, OnBadRow, SkippedRow
from rollout.data.forms import column as column_of
from rollout.data.jsonl import is_object
from rollout.data.rows import read_rows, row_id, without_error
from rollout.data.samples import SampleRow
from rollout.data.sources import find_source
from rollout.errors import InputError

__all__ = ["RIGHT", "Question", "Questions", "read_questions"]

# the label of the right answer, whether a response gives that or not
RIGHT = 0


log = logging.getLogger("raft")


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """The labels and scores of one question's N responses.

    label_N: `RIGHT`, another number's label, or `SILENT` where a response gives no number.
    score_N: NaN where a score is missing; None where scores are not read.
    """

    label_N: NDArray[np.int64]
    score_N: NDArray[np.float64] | None


@dataclass(frozen=True, slots=True)
class Questions:
    r"""The questions of a pool whose right answer is known; `unanswered` counts those without one.

    `unreadable` lists where an answer is not a number, such as `7\pi`, and the answer.
    """

    name: str
    column: str
    scores: str | None
    questions: list[Question]
    unanswered: int
    unreadable: list[str]
    bad: BadRows

    @property
    def most(self) -> int:
        return max(len(one.label_N) for one in self.questions)


def read_questions(
    pool: str,
    column: str = "answer",
    *,
    answers: str | None = None,
    scores: str | None = None,
    tolerance: float = 0.0,
    on_bad_row: OnBadRow = "stop",
    split: str = "train",
    columns: Mapping[str, str] | None = None,
) -> Questions:
    """Read the questions of a pool one row at a time, without holding texts in memory.

    Args:
        column: the column of the right answer: a number, or a text that gives one (`#### 42`).
        answers: a file of prompts with that column, matched by id, where the pool has none.
        scores: the column of scores to read.
        on_bad_row: "skip" skips rows that cannot be read, and counts them.
        split: of a dataset; columns: other names of columns, as `find_source` takes them.
        tolerance: largest difference of a number that still counts as right.

    Raises:
        InputError: a broken row, no answer to any question, two answers of one id, no such scores.
    """
    slack = Fraction(finite_number(tolerance, "--tolerance", at_least=0)).limit_denominator(10**12)
    known = None if answers is None else _answers(answers, column)
    source = find_samples(pool, split=split, columns=columns)
    if len(source.parts) > 1 or source.parts[0].iteration is not None:
        raise InputError(pool, "is a run folder", "name one of its files, iterations/NNN/….jsonl")
    found: list[Question] = []
    unanswered = 0
    unreadable: list[str] = []
    bad = BadRows(on_bad_row)
    for row in source.read(source.parts[0], bad):
        reference = _reference(row, column, known, answers)
        if reference is None:
            unanswered += 1
            continue
        right = read_reference(reference)
        if right is None:
            unreadable.append(f"{row.where}: {reference!r}")
            continue
        score_N = None
        if scores is not None:
            score_N = np.array(row.scores_in(scores, "run raft score first"), dtype=np.float64)
        found.append(Question(_labels(row, right, slack), score_N))
    if not found:
        what = f"no row has an answer in {column!r}"
        what += f" that is a number (the first: {unreadable[0]})" if unreadable else ""
        raise InputError(pool, what, "name its column by --answer-column")
    bad.warn(pool, log)
    return Questions(source.name, column, scores, found, unanswered, unreadable, bad)


def _answers(file: str, column: str) -> dict[str, object]:
    source = find_source(file)
    found: dict[str, object] = {}
    for row in read_rows(source, keep_errors=True):
        if isinstance(row.value, SkippedRow):
            continue
        if not is_object(value := without_error(row).value):
            raise InputError(row.where, "is no object", "name a file of rows")
        id, answer = row_id(value, row, source.stem), column_of(value, column, row.where)
        if found.setdefault(id, answer) != answer:
            raise InputError(row.where, f"id {id!r} has another answer above", "give it one")
    return found


def _reference(
    row: SampleRow, column: str, known: Mapping[str, object] | None, file: str | None
) -> object:
    if column in row.columns or column.partition(".")[0] in row.columns:
        return column_of(row.columns, column, row.where)
    if known is None:
        raise InputError(
            row.where,
            f"no column {column!r} with the right answer (columns: {', '.join(row.to_json())})",
            "name it by --answer-column, or the file of prompts that has it by --questions",
        )
    if row.id not in known:
        raise InputError(
            row.where, f"{file} has no row of id {row.id!r}", "name the prompts it was drawn for"
        )
    return known[row.id]


def _labels(row: SampleRow, right: Fraction, slack: Fraction) -> NDArray[np.int64]:
    labels: dict[Fraction, int] = {}
    found = []
    for text in row.responses:
        number = read_number(text)
        if number is None:
            found.append(SILENT)
        elif number == right or (slack and abs(number - right) <= slack):
            found.append(RIGHT)
        else:
            found.append(labels.setdefault(number, len(labels) + 1))
    return np.array(found, dtype=np.int64)
