"""Rows to evaluate a reward on: responses to a prompt, and how good each is known to be.

A pair is two responses, of which the better has 1 and the worse 0; so are lists of right and wrong
answers. Any two responses of a row that are not equally good are one pair to tell apart.

Knows nothing of rewards. `rewards.evaluation.forms` says which columns each form has.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from itertools import product
from typing import Any

from raft.eval_forms import parse_form
from rewards.evaluation.forms import Form, recognise
from rollout.data.fields import row_id
from rollout.data.messages import json_kind
from rollout.data.rows import Row
from rollout.errors import InputError
from rollout.types import Group

__all__ = ["EvalRow", "RowParser"]

# columns that tables are made by, the first that a row has
_SOURCES = ("source", "subset", "domain")
_WANTED = "preference pairs, or rows of RewardBench, RM-Bench, JudgeBench, LLMBar, HHH or lists"


@dataclass(frozen=True, slots=True)
class EvalRow:
    """K responses in the row's own order, right ones or the better one as the form has them.

    Args:
        groups: what is scored: one group of K, or two of one where two answers have two prompts.
            None of a row that holds judgements alone.
        gold: (K,), higher is better; NaN where it is not known.
        source: for tables by source.
    """

    where: str
    id: str
    columns: dict[str, Any]
    groups: tuple[Group, ...]
    gold: tuple[float, ...]
    source: str

    @property
    def texts(self) -> list[str]:
        """K, or none of a row of judgements."""
        return [one.text for group in self.groups for one in group.completions]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(better, worse), indices of responses."""
        every = range(len(self.gold))
        return [(i, j) for i, j in product(every, every) if self.gold[i] > self.gold[j]]

    @property
    def turns(self) -> int:
        """Of the user, in the prompt; 0 where there is none to read."""
        content = self.groups[0].prompt.content if self.groups else ()
        return 1 if isinstance(content, str) else sum(m["role"] == "user" for m in content)

    @property
    def prompt_digest(self) -> bytes:
        """Equal for equal prompts; rows without one are told apart by id."""
        content = self.groups[0].prompt.content if self.groups else f"\0{self.id}"
        turns = (
            [("user", content)]
            if isinstance(content, str)
            else [(m["role"], m["content"]) for m in content]
        )
        return blake2b(repr(turns).encode("utf-8", "surrogatepass"), digest_size=16).digest()


class RowParser:
    """Reads rows as `form`, or as the form that the first one's columns fit.

    Args:
        stem: of the file's name: for ids, and the source of LLMBar rows, which have none.
        gold: the column that a listwise row's order stands in.
    """

    def __init__(self, stem: str, form: Form | None = None, gold: str | None = None) -> None:
        self.form: Form | None = form
        self._stem = stem
        self._gold = gold

    def parse(self, row: Row) -> EvalRow:
        """Raises InputError that begins with the row's place."""
        columns = row.value
        if not isinstance(columns, dict):
            raise InputError(
                f"{row.where}: holds {json_kind(columns)} where an object is expected; "
                f"give {_WANTED}"
            )
        if self.form is None:
            self.form = _recognised(columns, row.where)
        id = _id(columns, row, self._stem)
        groups, gold = parse_form(self.form, columns, id, row.where, self._gold)
        source = _source(columns, self.form, self._stem)
        return EvalRow(row.where, id, columns, groups, gold, source)


def _recognised(columns: dict[str, Any], where: str) -> Form:
    form = recognise(columns)
    if form is None:
        held = ", ".join(map(str, columns)) or "no columns"
        raise InputError(f"{where}: nothing to evaluate on in {held}; give {_WANTED}")
    return form


def _id(columns: dict[str, Any], row: Row, stem: str) -> str:
    given = columns.get("id") if columns.get("id") is not None else columns.get("pair_id")
    return row_id({"id": given}, row, stem)


def _source(columns: dict[str, Any], form: Form, stem: str) -> str:
    # RM-Bench's tables are by domain, and some of its rows have a subset too
    names = reversed(_SOURCES) if form == "rm-bench" else _SOURCES
    found = next((columns[key] for key in names if columns.get(key) not in (None, "")), None)
    return str(found) if found is not None else stem if form == "llmbar" else ""
