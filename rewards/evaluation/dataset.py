"""Read an evaluation set: rows of responses to a prompt, and how good each is known to be.

Any two responses of a row that are not equally good are a pair to tell apart. Only numbers stay in
memory, some dozens of bytes per response: the texts are read again for each reward.
`rewards.evaluation.forms` says which columns each form of rows has.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import product

import numpy as np

from rewards.evaluation.forms import Form, parse_form, recognise
from rollout.data.bad_rows import BadRows, OnBadRow, SkippedRow
from rollout.data.jsonl import is_object, json_kind
from rollout.data.pools import pool_rows
from rollout.data.rows import Row, read_rows, row_id, without_error
from rollout.data.sources import Source, find_source
from rollout.errors import InputError
from rollout.progress import Progress
from rollout.types import Completion, Group, Message, conversation

__all__ = [
    "EvalRow",
    "EvalSet",
    "RowParser",
    "read_set",
]

log = logging.getLogger("raft")

# columns that name a row's source in tables: the first that the row has
_SOURCES = ("source", "subset", "domain")
# a benchmark's tables are by its own names, whatever other columns its rows have
_BENCHMARK_SOURCES: dict[Form, tuple[str, ...]] = {
    "rewardbench": ("subset",),
    "rewardbench2": ("subset",),
    "rm-bench": ("domain", "subset", "source"),
}
_WANTED = "preference pairs, or rows of RewardBench, RM-Bench, JudgeBench, LLMBar, HHH or lists"


@dataclass(frozen=True, slots=True)
class EvalRow:
    """One row: K responses in the row's own order, and the known value of each.

    Args:
        columns: the row's columns; `given` has them under the names of the file, where a setting
            renamed them.
        groups: what is scored: one group of K responses, or two groups of one response where the
            two have different prompts. Empty for a row that holds judgements alone.
        gold: (K,), higher is better; NaN where it is not known.
        source: the name under which tables by source count the row.
    """

    where: str
    id: str
    columns: dict[str, object]
    groups: tuple[Group, ...]
    gold: tuple[float, ...]
    source: str
    given: dict[str, object] | None = None

    @property
    def texts(self) -> list[str]:
        """Return the K responses' texts; [] for a row of judgements."""
        return [one.text for _, one in self._drawn()]

    @property
    def conversations(self) -> list[list[Message]]:
        """Return K conversations, each response after its prompt; [] for a row of judgements."""
        return [conversation(group.prompt, one) for group, one in self._drawn()]

    def _drawn(self) -> Iterator[tuple[Group, Completion]]:
        return ((group, one) for group in self.groups for one in group.completions)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Return (better, worse) indices of all two responses that are not equally good."""
        every = range(len(self.gold))
        return [(i, j) for i, j in product(every, every) if self.gold[i] > self.gold[j]]

    @property
    def turns(self) -> int:
        """Return the number of user turns in the prompt; 0 for a row of judgements."""
        content = self.groups[0].prompt.content if self.groups else ()
        return 1 if isinstance(content, str) else sum(m["role"] == "user" for m in content)

    @property
    def prompt_digest(self) -> bytes:
        """Return a digest that is equal for equal prompts; rows without one differ by id."""
        content = self.groups[0].prompt.content if self.groups else f"\0{self.id}"
        turns = [Message(role="user", content=content)] if isinstance(content, str) else content
        said = [(m["role"], m["content"], *list(m.items())[2:]) for m in turns]
        return blake2b(repr(said).encode("utf-8", "surrogatepass"), digest_size=16).digest()


class RowParser:
    """A parser of rows as `form`, or as the form that the first one's columns fit.

    Args:
        stem: of the file's name: for ids, and the source of LLMBar rows, which have none.
        gold: the column that holds a listwise row's known order.
    """

    def __init__(self, stem: str, form: Form | None = None, gold: str | None = None) -> None:
        self.form: Form | None = form
        self._stem = stem
        self._gold = gold

    def rows(self, source: Source) -> Iterator[Row]:
        """Return the rows of a file as `parse` takes them: flat rows are pooled for "listwise"."""
        rows = read_rows(source, keep_errors=True)
        return pool_rows(rows, self._gold) if self.form == "listwise" else rows

    def parse(self, row: Row) -> EvalRow:
        """Return the parsed row. Raises InputError that begins with the row's place."""
        columns = without_error(row).value
        if not isinstance(columns, dict):
            raise InputError(
                row.where,
                f"holds {json_kind(columns)} where an object is expected",
                f"give {_WANTED}",
            )
        if self.form is None:
            self.form = _recognised(columns, row.where)
        id = _id(columns, row, self._stem)
        groups, gold = parse_form(self.form, columns, id, row.where, self._gold)
        source = _source(columns, self.form, self._stem)
        return EvalRow(row.where, id, columns, groups, gold, source, row.given)


def _recognised(columns: dict[str, object], where: str) -> Form:
    form = recognise(columns, where)
    if form is None:
        held = ", ".join(map(str, columns)) or "no columns"
        raise InputError(where, f"nothing to evaluate on in {held}", f"give {_WANTED}")
    return form


def _id(columns: dict[str, object], row: Row, stem: str) -> str:
    given = columns.get("id") if columns.get("id") is not None else columns.get("pair_id")
    return row_id({"id": given}, row, stem)


def _source(columns: dict[str, object], form: Form, stem: str) -> str:
    names = _BENCHMARK_SOURCES.get(form, _SOURCES)
    found = next((columns[key] for key in names if columns.get(key) not in (None, "")), None)
    return str(found) if found is not None else stem if form == "llmbar" else ""


@dataclass(frozen=True, slots=True, eq=False)
class EvalSet:
    """N rows, R responses of all rows in order, and M pairs of them.

    Args:
        gold_R: known value of each response; NaN where it is not known.
        length_R: characters of each response; NaN where there is no text.
        row_R, row_M: the row of each response and of each pair.
        better_M, worse_M: the responses of each pair, by their place among R.
        prompt_N: number of the row's prompt: equal prompts have one number.
        turns_N: user turns of the prompt.
    """

    source: Source
    split: str
    form: Form
    gold: str | None
    bad: BadRows
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
        """Read every row once more, but for those that are skipped."""
        return (row for row, _ in self.all_rows() if row is not None)

    def all_rows(self) -> Iterator[tuple[EvalRow | None, Row]]:
        """Yield every row once more, and beside it as read; None for one that is skipped."""
        parser = RowParser(self.source.stem, self.form, self.gold)
        for row in parser.rows(self.source):
            yield (None if row.number in self.bad.reasons else parser.parse(row)), row

    @property
    def prompt_M(self) -> np.ndarray:
        return self.prompt_N[self.row_M]

    @property
    def source_M(self) -> list[str]:
        return [self.source_N[row] for row in self.row_M]

    @property
    def extra_length_M(self) -> np.ndarray:
        """Return how many characters longer the better response of each pair is than the worse."""
        return self.length_R[self.better_M] - self.length_R[self.worse_M]

    def margins(self, scores_R: np.ndarray) -> np.ndarray:
        """Return the better response's score minus the worse's, (M,)."""
        return scores_R[self.better_M] - scores_R[self.worse_M]

    def per_row(self, values_R: np.ndarray) -> list[np.ndarray]:
        """Split values of all responses (R,) into one array (K,) per row."""
        return np.split(values_R, np.flatnonzero(np.diff(self.row_R)) + 1)


def read_set(
    name: str,
    *,
    form: Form | None = None,
    gold: str | None = None,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "stop",
    check: Callable[[EvalRow], None] | None = None,
) -> EvalSet:
    """Read and check every row of a file or a dataset, by `check` too, which raises InputError.

    With `on_bad_row` "skip" a row that cannot be read is skipped, and counted in `bad`.

    Raises InputError: no such file, a row that cannot be read, no rows, rows without two responses
    of which one is better.
    """
    source, bad = find_source(name, split=split, columns=columns), BadRows(on_bad_row)
    form = form or _first_form(source, on_bad_row)
    parser, facts = RowParser(source.stem, form, gold), _Facts()
    with Progress("checking", 0) as bar:
        for row in parser.rows(source):
            try:
                found = parser.parse(row)
                if check is not None:
                    check(found)
                facts.add(found)
            except InputError as error:
                bad.take(row.number, row.where, error)
            bar.advance()
    bad.warn(name, log)
    if not facts.ids:
        raise bad.nothing_left(name)
    if not facts.better:
        raise InputError(
            name,
            "no pair of responses of which one is better, all are equally good",
            "nothing can be told apart, give rows that differ",
        )
    assert parser.form is not None, "a row was read"
    return facts.as_set(source, split, parser.form, gold, bad)


def _first_form(source: Source, on_bad_row: OnBadRow) -> Form | None:
    """Return the form of the first row that is read; None where its columns fit no form.

    With `on_bad_row` "skip" it is that of the first row whose columns fit one.
    """
    for row in read_rows(source, keep_errors=True):
        try:
            if is_object(row.value) and (form := recognise(row.value, row.where)) is not None:
                return form
        except InputError:  # reported when all rows are read
            pass
        if on_bad_row == "stop" and not isinstance(row.value, SkippedRow):
            break
    return None


class _Facts:
    """The numbers of an `EvalSet`, collected row by row."""

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

    def as_set(
        self, source: Source, split: str, form: Form, gold: str | None, bad: BadRows
    ) -> EvalSet:
        def whole(values: list[int]) -> np.ndarray:
            return np.array(values, dtype=np.int64)

        return EvalSet(
            source=source,
            split=split,
            form=form,
            gold=gold,
            bad=bad,
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
