"""Rows of stored samples: a prompt's K responses, with scores and other values for each.

A row is checked once, when it is read, by `SampleRow.from_json`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from rollout.data.forms import column
from rollout.data.jsonl import (
    Damage,
    Row,
    is_finite_number,
    is_list,
    is_object,
    json_kind,
    read_jsonl,
)
from rollout.errors import InputError
from rollout.types import Completion, Group, Message, Prompt

__all__ = [
    "COMPARISONS",
    "LARGEST",
    "RANKING",
    "REWARD",
    "Comparison",
    "SampleRow",
    "Scores",
    "beside",
    "check_scores",
    "ids_column",
    "is_too_large",
    "prompt_column",
    "read_samples",
    "score_of",
]

Scores = list[float | None]  # one per response; None, NaN and infinity are missing
Comparison = tuple[int, int, float | None]  # i, j, P(response i is better than response j)

# larger scores are refused, so that the square of a sum of scores stays finite
LARGEST = 1e100
# the column that holds the reward's scores; others are NAME_scores
REWARD = "scores"
# the column of a tournament's comparisons, a list of `Comparison`
COMPARISONS = "comparisons"
# the columns of a ranking of all of a row's responses, apart from its scores
RANKING = frozenset({COMPARISONS, "ranking", "best", "tournament"})
_TYPED = frozenset(
    {"id", "prompt", "responses", "finish_reasons", "token_ids", "seeds", "sample_numbers",
     "policy_version", "prompt_token_ids", COMPARISONS}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One prompt's K responses. Lists beside `responses` have K entries, or none where unknown.

    Attributes:
        scores: column name -> K scores; `scores` is the reward's, `gold_scores` that of gold.
        finish_reasons: "length" for a response that was cut at the limit.
        sample_numbers: the index of each response among the prompt's samples, if some are absent.
        policy_version: of the policy that drew the responses; None where it is not known.
        columns: the row's other columns.
        where: the place of the row, which error messages begin with.
    """

    id: str
    prompt: str | list[Message] | None
    responses: list[str]
    scores: dict[str, Scores] = field(default_factory=dict[str, Scores])
    finish_reasons: list[str | None] = field(default_factory=list[str | None])
    token_ids: list[list[int]] = field(default_factory=list[list[int]])
    seeds: list[int | None] = field(default_factory=list[int | None])
    sample_numbers: list[int] = field(default_factory=list[int])
    policy_version: int | None = None
    prompt_token_ids: list[int] | None = None
    comparisons: list[Comparison] | None = None
    columns: dict[str, object] = field(default_factory=dict[str, object])
    where: str = ""

    @classmethod
    def from_json(
        cls, value: object, where: str, number: int = 0, *, odd_scores: bool = False
    ) -> SampleRow:
        """Return a checked row.

        Args:
            number: the id, where the row has none.
            odd_scores: treat a score that is no number as missing.

        Raises:
            InputError: a column does not fit the responses, or has a wrong type.
        """
        if not is_object(value):
            raise InputError(where, f"holds {json_kind(value)} where an object is expected")
        responses = _texts(value.get("responses"), where)
        count = len(responses)
        names = [name for name in value if _is_score_column(name)]
        version, ids = value.get("policy_version"), value.get("prompt_token_ids")
        if value.get(COMPARISONS) is not None:
            comparisons = _comparisons(value[COMPARISONS], count, where)
        else:
            comparisons = None
        return cls(
            id=str(number if value.get("id") is None else value["id"]),
            prompt=prompt_column(value.get("prompt"), where),
            responses=responses,
            scores={
                name: _numbers(value[name], count, where, name)
                if odd_scores
                else check_scores(value[name], count, f"{where}: {name!r}")
                for name in names
                if not (odd_scores and value[name] is None)
            },
            finish_reasons=cast(list[str | None], beside(value, "finish_reasons", count, where)),
            token_ids=_token_ids(value, count, where),
            seeds=cast(list[int | None], beside(value, "seeds", count, where)),
            sample_numbers=cast(list[int], beside(value, "sample_numbers", count, where)),
            policy_version=version if isinstance(version, int) else None,
            prompt_token_ids=cast(list[int], ids) if is_list(ids) else None,
            comparisons=comparisons,
            columns={
                name: column
                for name, column in value.items()
                if name not in _TYPED and name not in names
            },
            where=where,
        )

    @classmethod
    def of_group(cls, group: Group) -> SampleRow:
        """Return a row of the drawn responses, without the prompt and without scores."""
        drawn = group.completions
        return cls(
            id=group.prompt.id,
            prompt=None,
            responses=[one.text for one in drawn],
            finish_reasons=[one.finish_reason for one in drawn],
            token_ids=[list(one.token_ids) for one in drawn],
            seeds=[one.seed for one in drawn],
            policy_version=group.policy_version,
        )

    def group(self, prompt: Prompt) -> Group:
        """Return the group that `of_group` was given, with `prompt` as its prompt."""
        return Group(
            prompt,
            tuple(
                Completion(text, tuple(ids), "length" if cut else "stop", seed)
                for text, ids, cut, seed in zip(
                    self.responses, self.token_ids, self.truncated, self.seeds, strict=True
                )
            ),
            self.policy_version or 0,
        )

    @property
    def numbers(self) -> Sequence[int]:
        """The index of each response among the prompt's samples, (K,)."""
        return self.sample_numbers or range(len(self.responses))

    @property
    def truncated(self) -> list[bool]:
        """Whether each response was cut at the length limit, (K,)."""
        reasons = self.finish_reasons or [None] * len(self.responses)
        return [reason == "length" for reason in reasons]

    def scores_in(self, name: str, fix: str) -> Scores:
        """Return the (K,) scores in column `name`. Raises InputError with `fix` without one."""
        if name in self.scores:
            return self.scores[name]
        try:
            values = column(self.columns, name, self.where)
        except InputError:
            raise InputError(
                self.where, f"no column {name!r} (there: {', '.join(self.scores) or 'none'})", fix
            ) from None
        return check_scores(values, len(self.responses), f"{self.where}: {name!r}")

    def to_json(self) -> dict[str, object]:
        """Return the row as it is stored; unknown values have no column."""
        row: dict[str, object] = {
            "id": self.id,
            "prompt": self.prompt,
            **self.columns,
            "responses": self.responses,
            **self.scores,
            COMPARISONS: self.comparisons,
            "finish_reasons": self.finish_reasons or None,
            "policy_version": self.policy_version,
            "seeds": self.seeds or None,
            "sample_numbers": self.sample_numbers or None,
            "prompt_token_ids": self.prompt_token_ids,
            "token_ids": self.token_ids or None,
        }
        return {name: row[name] for name in row if row[name] is not None or name in self.columns}


def read_samples(
    path: Path, *, name: str = "", damage: Damage | None = None, odd_scores: bool = False
) -> Iterator[SampleRow]:
    """Yield the rows of a JSONL file of this toolkit, one at a time.

    Strict by default; with `damage`, a row that cannot be read is skipped and added there. `name`
    is the file's name in errors; `odd_scores` is that of `SampleRow.from_json`.

    Raises:
        InputError: the first bad row, or a file without rows; not with `damage`.
        OSError: the file cannot be read.
    """

    def parse(row: Row) -> SampleRow:
        return SampleRow.from_json(row.value, row.where, row.number, odd_scores=odd_scores)

    rows = read_jsonl(path, parse, name=name, damage=damage)
    first = next(rows, None)
    if first is None:
        if damage is None:
            raise InputError(name or path, "holds no rows", "restore it")
        return
    yield first
    yield from rows


def check_scores(values: object, count: int, where: str) -> Scores:
    """Return `values` as scores: for each of `count` responses a number, true, false or null.

    Raises InputError for anything else.
    """
    if not is_list(values) or len(values) != count:
        raise InputError(where, f"does not hold one score for each of {count} responses")
    return [
        # nearly all scores are such floats, which need no call
        score
        if type(score) is float and -LARGEST <= score <= LARGEST
        else score_of(score, where, f"score {k}")
        for k, score in enumerate(values)
    ]


def score_of(value: object, where: str, name: str) -> float | None:
    """Return a score as a number; true is 1 and false 0. Raises InputError for anything else.

    Missing scores (None, and NaN and infinity, which some programs write) are returned unchanged.
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return value
    if is_too_large(value):
        raise InputError(where, f"{name} is {value}, too large to add up", "write null")
    if isinstance(value, bool) or is_finite_number(value):
        return float(value)
    raise InputError(
        where, f"{name} is {json_kind(value)}", "write a number, true or false, or null"
    )


def is_too_large(score: object) -> bool:
    """Return whether a score is a number too large for sums and squares of scores."""
    return is_finite_number(score) and abs(score) > LARGEST


def beside(row: Mapping[str, object], name: str, count: int, where: str) -> list[object]:
    """Return a column's value for each of `count` responses; [] where there is no such column.

    Raises InputError for a column of another length, or that is no list.
    """
    values = row.get(name)
    if values is None:
        return []
    if not is_list(values) or len(values) != count:
        raise InputError(where, f"{name!r} does not fit {count} responses", "fix it or delete it")
    return values


def _is_score_column(name: str) -> bool:
    return name == REWARD or name.endswith("_scores")


def _texts(value: object, where: str) -> list[str]:
    if not is_list(value) or not value:
        raise InputError(where, "no list of 'responses'", "give each row K texts")
    for k, text in enumerate(value):
        if not isinstance(text, str):
            raise InputError(where, f"responses[{k}] is {json_kind(text)}", "a response is a text")
    return cast(list[str], value)


def prompt_column(value: object, where: str) -> str | list[Message] | None:
    if value is None or isinstance(value, str):
        return value
    if not is_list(value) or not all(is_object(message) for message in value):
        raise InputError(where, "'prompt' is neither a text nor messages", "fix or delete the row")
    return cast(list[Message], value)


def _token_ids(row: Mapping[str, object], count: int, where: str) -> list[list[int]]:
    found = beside(row, "token_ids", count, where)
    return [
        # nearly all are lists, which need no call
        cast(list[int], ids) if type(ids) is list else ids_column(ids, "token_ids", where)
        for ids in found
    ]


def ids_column(value: object, name: str, where: str) -> list[int]:
    if value is None:
        return []
    if not is_list(value):
        raise InputError(where, f"{name!r} is {json_kind(value)}", "fix it or delete it")
    return cast(list[int], value)


def _numbers(values: object, count: int, where: str, name: str) -> Scores:
    found = beside({name: values}, name, count, where)
    return [
        float(one)
        if isinstance(one, bool) or (is_finite_number(one) and not is_too_large(one))
        else None
        for one in found
    ]


def _comparisons(found: object, count: int, where: str) -> list[Comparison]:
    """Return checked comparisons with i and j as int; Parquet stores them as floats like P."""
    checked: list[Comparison] = []
    for one in found if is_list(found) else [found]:
        i, j, chance = one if is_list(one) and len(one) == 3 else (None, None, None)
        if not (_is_place(i, count) and _is_place(j, count) and i != j and _is_chance(chance)):
            raise InputError(
                where,
                f"{COMPARISONS!r} must be [[i, j, P(i is better than j)], …] of its {count} "
                "responses, P from 0 to 1 or null",
            )
        checked.append((int(cast(float, i)), int(cast(float, j)), cast(float | None, chance)))
    return checked


def _is_place(value: object, count: int) -> bool:
    return is_finite_number(value) and 0 <= value < count and value % 1 == 0


def _is_chance(value: object) -> bool:
    return value is None or (is_finite_number(value) and 0 <= value <= 1)
