"""Rows to score: their forms, the conversations in them, and the columns of their scores.

Rows of other published forms are renamed to these forms, see `rollout.data.forms`.

| form | columns | scores |
|---|---|---|
| responses | `prompt`, `responses` | `scores`, one of each response |
| response | `prompt`, `response` | `score` |
| messages | `messages` | `score` |
| pairs | `chosen`, `rejected`, with or without `prompt` | `chosen_score`, `rejected_score` |

`RowReader` reads them out of a file or a dataset, twice: the first reading finds every broken row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast

from rollout.data.bad_rows import SKIPPED, BadRows, OnBadRow
from rollout.data.forms import handed_on, known_columns
from rollout.data.jsonl import is_list, is_object, json_columns, json_kind
from rollout.data.messages import read_answer
from rollout.data.pairs import pair_groups, response_groups
from rollout.data.pools import flat_answer, pool_rows
from rollout.data.rows import Row, RowIds, read_rows, row_id, without_error
from rollout.data.samples import beside
from rollout.data.sources import find_source
from rollout.errors import InputError
from rollout.progress import Progress
from rollout.types import Completion, Group, Prompt

__all__ = ["FORMS", "Checked", "Form", "RowReader", "ScoreRow", "parse_row", "score_columns"]

Form = Literal["responses", "response", "messages", "pairs"]
FORMS: dict[Form, tuple[str, ...]] = {
    "responses": ("prompt", "responses"),
    "response": ("prompt", "response"),
    "messages": ("messages",),
    "pairs": ("chosen", "rejected"),
}
# the columns that are a row's own; all others are handed on to reward functions
_OWN: dict[Form, tuple[str, ...]] = {
    "responses": ("id", "prompt", "responses"),
    "response": ("id", "prompt", "response"),
    "messages": ("id", "messages"),
    "pairs": ("id", "prompt", "chosen", "rejected"),
}
_WANTED = (
    '{"prompt","responses"}, {"prompt","response"}, {"messages"}, {"chosen","rejected"} or '
    '{"prompt","chosen","rejected"}'
)


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One row: its columns as they were read, and the groups to score.

    A pair whose two sides have the same prompt is one group of two; any other pair is two groups. A
    row without responses, or one that is skipped, has no groups; `bad` is why it is skipped.
    `given` are the columns under the names of the file, where these differ.
    """

    where: str
    id: str
    columns: dict[str, object]
    form: Form
    groups: tuple[Group, ...]
    number: int = 0
    bad: str | None = None
    given: dict[str, object] | None = None

    @property
    def written(self) -> dict[str, object]:
        """The row's columns as the file has them, for a command that writes the row again."""
        return self.columns if self.given is None else self.given

    @property
    def conversations(self) -> int:
        return sum(len(group.completions) for group in self.groups)

    def answers_as(self, other: ScoreRow) -> bool:
        """Return whether both rows are one response each, to the same prompt."""
        if not self.conversations == other.conversations == 1:
            return False
        return self.groups[0].prompt.content == other.groups[0].prompt.content

    def scored(
        self, scores: Sequence[Sequence[float | None]], name: str | None = None
    ) -> dict[str, object]:
        """Return the written row with its groups' scores; `name` is the prefix of their columns."""
        flat = [score for group in scores for score in group]
        values: Sequence[object] = [flat] if self.form == "responses" else flat
        return {
            **self.written,
            **dict(zip(score_columns(self.form, name), values, strict=True)),
        }

    def skipped(self, nulls: Mapping[str, object]) -> dict[str, object]:
        """Return the written row of a skipped row, with `nulls` as columns and the reason."""
        return {**self.written, **nulls, SKIPPED: self.bad}

    def nulls(self) -> list[None]:
        """Return None for each response, also where the row cannot be read."""
        responses = self.columns.get("responses")
        return [None] * (len(responses) if is_list(responses) else self.conversations)

    def scores_in(self, row: Mapping[str, object], name: str | None = None) -> list[float | None]:
        """Return the scores that `scored` put into a row, in the order of the conversations."""
        values = [row[column] for column in score_columns(self.form, name)]
        # written by this class, here or in an interrupted command with the same settings
        return cast(list[float | None], values[0] if self.form == "responses" else values)


def score_columns(form: Form, name: str | None = None) -> tuple[str, ...]:
    """Return the names of the score columns of a form; with `name` gold `score` is `gold_score`."""
    prefix = f"{name}_" if name else ""
    if form == "pairs":
        return f"{prefix}chosen_score", f"{prefix}rejected_score"
    return (f"{prefix}scores" if form == "responses" else f"{prefix}score",)


def parse_row(row: Row, stem: str, form: Form | None = None) -> ScoreRow:
    """Read a row as `form`, or as the one form that its columns fit.

    An id that the row does not give is `{stem}-{number:06d}`, as with prompts.

    Raises InputError that begins with the row's place.
    """
    columns = without_error(row).value
    if not is_object(columns):
        raise InputError(
            row.where,
            f"holds {json_kind(columns)} where an object is expected",
            f"write {_WANTED}",
        )
    known = known_columns(columns, row.where)
    found: Form = _form(known, row.where) if form is None else form
    missing = [key for key in FORMS[found] if key not in known]
    if missing and found == "responses" and known.keys() >= set(FORMS["pairs"]):
        raise InputError(
            row.where, "is a pair, chosen and rejected, where K responses to a prompt are expected",
            "compare its sides with raft eval-reward, or add scores with raft score",
        )  # fmt: skip
    if missing == ["responses"]:
        problem = "no column 'responses': it is a prompt that nothing answers yet"
        fix = "draw responses by raft sample, or give raft bon a --policy to draw from"
        raise InputError(row.where, problem, fix)
    if missing:
        raise InputError(row.where, f"no column {missing[0]!r}, which rows of form {found} need")
    id = row_id(columns, row, stem)
    groups = _groups(columns, known, found, id, row.where)
    return ScoreRow(row.where, id, columns, found, groups)


def _form(columns: dict[str, object], where: str) -> Form:
    fitting: list[Form] = [form for form, keys in FORMS.items() if columns.keys() >= set(keys)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        held = ", ".join(columns) or "(none)"
        raise InputError(
            where,
            f"no response is among the columns {held}",
            f"name it, --columns response=NAME, or write {_WANTED}",
        )
    raise InputError(
        where,
        f"can be read as {' and as '.join(fitting)}",
        f"say which with --form {fitting[0]}",
    )


def _groups(
    columns: dict[str, object], known: dict[str, object], form: Form, id: str, where: str
) -> tuple[Group, ...]:
    fields = handed_on(columns, known, _OWN[form])
    if form == "pairs":
        return pair_groups(known, id, fields, where)
    # responses from elsewhere have no policy version; theirs counts as 0
    given = columns.get("policy_version")
    version = given if isinstance(given, int) else 0
    if form == "responses":
        return response_groups(known, partial(_drawn, known, where), id, fields, where, version)
    content, one = flat_answer(known, where)
    completion = replace(one, token_ids=_token_ids(columns.get("token_ids")))
    return (Group(Prompt(id, content, fields), (completion,), version),)


def _drawn(columns: dict[str, object], where: str) -> tuple[Completion, ...]:
    responses = columns["responses"]
    if not is_list(responses):
        raise InputError(where, f"'responses' is {json_kind(responses)}", "make it a list of texts")
    count = len(responses)
    drawn = [read_answer(one, where, f"responses[{k}]") for k, one in enumerate(responses)]
    ids = beside(columns, "token_ids", count, where) or [None] * count
    ends = beside(columns, "finish_reasons", count, where) or [None] * count
    return tuple(
        Completion(
            one.text, _token_ids(own), "length" if end == "length" else "stop", message=one.message
        )
        for one, own, end in zip(drawn, ids, ends, strict=True)
    )


def _token_ids(value: object) -> tuple[int, ...]:
    return tuple(cast(list[int], value)) if is_list(value) else ()


@dataclass(frozen=True, slots=True)
class Checked:
    """The size of a whole checked input, and a digest of its rows."""

    rows: int
    conversations: int
    digest: str


class RowReader:
    """Reads rows as `form`, or each as the one form that its columns fit.

    `split` and `columns` are those of `rollout.data.sources.Source`. As form "responses", flat rows
    of one response are read too, and joined by their prompts. After `check`, an id that occurs more
    than once gets the row's number appended. With `on_bad_row` "skip" a row that cannot be read, or
    that `check` refuses, stays in its place without groups; `bad` counts such rows.

    Raises:
        InputError: the file is missing or of an unknown form.
    """

    def __init__(
        self,
        name: str,
        *,
        split: str = "train",
        form: Form | None = None,
        columns: Mapping[str, str] | None = None,
        on_bad_row: OnBadRow = "stop",
    ) -> None:
        self.bad = BadRows(on_bad_row)
        self._found: Form = form or "response"  # of the last row that could be read
        self.source = find_source(name, split=split, columns=columns)
        self.stem = self.source.stem
        self._form: Form | None = form
        self._ids = RowIds()

    def rows(self) -> Iterator[ScoreRow]:
        """Yield every row, one at a time.

        Raises InputError, which begins with a row's place, where bad rows are to stop.
        """
        rows = read_rows(self.source, keep_errors=True)
        for row in pool_rows(rows) if self._form == "responses" else rows:
            try:
                yield self._bad(row) if row.number in self.bad.reasons else self._read(row)
            except InputError as error:
                self.bad.take(row.number, row.where, error)
                yield self._bad(row)

    def check(
        self,
        check: Callable[[ScoreRow], object],
        row_check: Callable[[ScoreRow], object] | None = None,
    ) -> Checked:
        """Read every row, call `check` with it, and `row_check` with those that can be read.

        Raises InputError for an empty file, for one without a good row and, where bad rows are to
        stop, for a row that cannot be read or that `row_check` refuses.
        """
        ids, digest = RowIds(), hashlib.blake2b(digest_size=16)
        rows = conversations = 0
        with Progress("checking", 0) as bar:
            for row in self.rows():
                check(row)
                if row_check is not None and row.bad is None:
                    try:
                        row_check(row)
                    except InputError as error:
                        self.bad.take(row.number, row.where, error)
                        row = replace(row, groups=())
                ids.add(row.id)
                digest.update(json.dumps(row.written).encode() + b"\n")
                rows, conversations = rows + 1, conversations + row.conversations
                bar.advance()
        if len(self.bad.reasons) == rows:
            raise self.bad.nothing_left(self.source.name)
        self._ids = ids
        return Checked(rows, conversations, digest.hexdigest())

    def _read(self, row: Row) -> ScoreRow:
        found = parse_row(row, self.stem, self._form)
        found = replace(found, number=row.number)
        self._found = found.form
        id = f"{found.id}~{row.number}" if self._ids.repeats(found.id) else found.id
        given = None if row.given is None else json_columns(row.given, found.where)
        found = replace(found, columns=json_columns(found.columns, found.where), given=given)
        return found if id == found.id else _of_id(found, id)

    def _bad(self, row: Row) -> ScoreRow:
        """Return a skipped row without groups, with the id and columns that can be read."""
        id = f"{self.stem}-{row.number:06d}"
        columns: dict[str, object] = {"id": id}
        value = row.given if row.given is not None else row.value
        if is_object(value):
            try:
                columns = json_columns(value, row.where)
                id = row_id(columns, row, self.stem)
            except InputError:  # an id that is none, a type that JSON has no form for
                pass
        fitting: list[Form] = [one for one, keys in FORMS.items() if columns.keys() >= set(keys)]
        form = self._form or (fitting[0] if fitting else self._found)
        reason = self.bad.reasons[row.number]
        return ScoreRow(row.where, id, columns, form, (), row.number, reason)


def _of_id(row: ScoreRow, id: str) -> ScoreRow:
    groups = (replace(one, prompt=replace(one.prompt, id=id)) for one in row.groups)
    return replace(row, id=id, groups=tuple(groups))
