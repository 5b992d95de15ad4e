"""What a row to score may look like, which conversations it holds, and where their scores go.

| form | columns | scores |
|---|---|---|
| responses | `prompt`, `responses` | `scores`, one of each response |
| response | `prompt`, `response` | `score` |
| messages | `messages` | `score` |
| pair | `chosen`, `rejected`, with or without `prompt` | `chosen_score`, `rejected_score` |

Knows nothing of rewards and nothing of files.

Rows to score out of a file or a dataset, and a first reading that finds every broken one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from rollout.data.fields import (
    NOT_FIELDS,
    answer,
    answered,
    completion,
    drawn_as,
    prompt_content,
    row_id,
)
from rollout.data.jsonl import json_columns
from rollout.data.messages import check_messages, json_kind
from rollout.data.pairs import pair_groups
from rollout.data.rows import Row, RowIds, find_source, read_rows
from rollout.errors import InputError
from rollout.progress import Progress
from rollout.types import Group, Prompt

__all__ = [
    "FORMS",
    "Checked",
    "Form",
    "RowReader",
    "ScoreRow",
    "parse_row",
    "score_columns",
]

Form = Literal["responses", "response", "messages", "pair"]
FORMS: dict[Form, tuple[str, ...]] = {
    "responses": ("prompt", "responses"),
    "response": ("prompt", "response"),
    "messages": ("messages",),
    "pair": ("chosen", "rejected"),
}
_WANTED = (
    '{"prompt","responses"}, {"prompt","response"}, {"messages"}, {"chosen","rejected"} or '
    '{"prompt","chosen","rejected"}'
)


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One row: its columns as they were read, and the groups to score.

    A pair whose two sides answer the same prompt is one group of two; any other pair is two groups.
    Without responses there are no groups.
    """

    where: str
    id: str
    columns: dict[str, Any]
    form: Form
    groups: tuple[Group, ...]

    @property
    def conversations(self) -> int:
        return sum(len(group.completions) for group in self.groups)

    def scored(
        self, scores: Sequence[Sequence[float | None]], name: str | None = None
    ) -> dict[str, Any]:
        """The row with its groups' scores; `name` goes before the columns they stand in."""
        flat = [score for group in scores for score in group]
        values = [flat] if self.form == "responses" else flat
        return {
            **self.columns,
            **dict(zip(score_columns(self.form, name), values, strict=True)),
        }

    def scores_in(self, row: dict[str, Any], name: str | None = None) -> list[float | None]:
        """The scores that `scored` put into a row, in the order of the conversations."""
        values = [row[column] for column in score_columns(self.form, name)]
        return values[0] if self.form == "responses" else values


def score_columns(form: Form, name: str | None = None) -> tuple[str, ...]:
    """The columns that scores of this form stand in, `gold_score` for the name gold."""
    prefix = f"{name}_" if name else ""
    if form == "pair":
        return f"{prefix}chosen_score", f"{prefix}rejected_score"
    return (f"{prefix}scores" if form == "responses" else f"{prefix}score",)


def parse_row(row: Row, stem: str, form: Form | None = None) -> ScoreRow:
    """Read a row as `form`, or as the one form that its columns fit.

    An id that the row does not give is `{stem}-{number:06d}`, as with prompts.

    Raises InputError that begins with the row's place.
    """
    columns = row.value
    if not isinstance(columns, dict):
        raise InputError(
            row.where,
            f"holds {json_kind(columns)} where an object is expected",
            f"write {_WANTED}",
        )
    found: Form = _form(columns, row.where) if form is None else form
    missing = [key for key in FORMS[found] if key not in columns]
    if missing:
        raise InputError(row.where, f"no column {missing[0]!r}, which rows of form {found} need")
    id = row_id(columns, row, stem)
    groups = _groups(columns, found, id, row.where)
    return ScoreRow(row.where, id, columns, found, groups)


def _form(columns: dict[str, Any], where: str) -> Form:
    fitting: list[Form] = [form for form, keys in FORMS.items() if columns.keys() >= set(keys)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        held = ", ".join(columns) or "no columns"
        raise InputError(where, f"nothing to score in {held}", f"write {_WANTED}")
    raise InputError(
        where,
        f"can be read as {' and as '.join(fitting)}",
        f"say which with --form {fitting[0]}",
    )


def _groups(columns: dict[str, Any], form: Form, id: str, where: str) -> tuple[Group, ...]:
    fields = {key: value for key, value in columns.items() if key not in NOT_FIELDS[form]}
    if form == "pair":
        return pair_groups(columns, id, fields, where)
    if form == "messages":
        content, text = _whole(columns["messages"], where)
        return (Group(Prompt(id, content, fields), (completion(text),), 0),)
    prompt = Prompt(id, prompt_content(columns["prompt"], where), fields)
    version = drawn_as(columns)
    if form == "response":
        text = answer(columns["response"], where, "response")
        return (Group(prompt, (completion(text, columns.get("token_ids")),), version),)
    completions = _completions(columns, where)
    return (Group(prompt, completions, version),) if completions else ()


def _whole(value: Any, where: str) -> Any:
    if not isinstance(value, list):
        raise InputError(where, f"'messages' is {json_kind(value)}", "make it a list of messages")
    return answered(check_messages(value, where, "messages"), where, "messages")


def _completions(columns: dict[str, Any], where: str) -> tuple[Any, ...]:
    responses = columns["responses"]
    if not isinstance(responses, list):
        raise InputError(where, f"'responses' is {json_kind(responses)}", "make it a list of texts")
    texts = [answer(text, where, f"responses[{k}]") for k, text in enumerate(responses)]
    return tuple(
        completion(text, ids, end)
        for text, ids, end in zip(
            texts,
            _beside(columns, "token_ids", len(texts), where),
            _beside(columns, "finish_reasons", len(texts), where),
            strict=True,
        )
    )


def _beside(columns: dict[str, Any], key: str, count: int, where: str) -> list[Any]:
    """What a run notes beside each response; None of each where the column is not there."""
    values = columns.get(key)
    if values is None:
        return [None] * count
    if not isinstance(values, list) or len(values) != count:
        raise InputError(
            where,
            f"{key!r} does not fit {count} responses",
            "fix it or leave it out",
        )
    return cast(list[Any], values)


@dataclass(frozen=True, slots=True)
class Checked:
    """A whole input whose rows are all readable: how many they are, and a digest of them."""

    rows: int
    conversations: int
    digest: str


class RowReader:
    """Reads rows as `form`, or each as the one form that its columns fit; `split` is a dataset's.

    Raises:
        InputError: the file is missing or of an unknown form.
    """

    def __init__(self, name: str, *, split: str = "train", form: Form | None = None) -> None:
        self.source = find_source(name)
        self.stem = self.source.stem
        self._split = split
        self._form: Form | None = form

    def rows(self) -> Iterator[ScoreRow]:
        """Every row, one at a time. Raises InputError that begins with a row's place."""
        for row in read_rows(self.source, split=self._split):
            found = parse_row(row, self.stem, self._form)
            yield replace(found, columns=json_columns(found.columns, found.where))

    def check(self, check: Callable[[ScoreRow], Any]) -> Checked:
        """Read every row, and call `check` with it.

        Raises InputError for a row that cannot be read, an id that stands twice, an empty file.
        """
        ids, digest = RowIds(), hashlib.blake2b(digest_size=16)
        rows = conversations = 0
        with Progress("checking", 0) as bar:
            for row in self.rows():
                check(row)
                ids.add(row.id)
                digest.update(json.dumps(row.columns).encode() + b"\n")
                rows, conversations = rows + 1, conversations + row.conversations
                bar.advance()
        if not rows:
            raise InputError(self.source.name, "holds no rows", "name a file with at least one")
        ids.check((row.id, row.where) for row in self.rows())
        return Checked(rows, conversations, digest.hexdigest())
