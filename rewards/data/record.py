"""Define a row to convert, with checked access to its columns, and what may become of it.

Pairs are made here alone, by `checked_pair`, so that every converter's pass the same checks.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from rewards.data.pair import Pair
from rollout.types import InputError, Message, with_keys

__all__ = [
    "DivergingPrompts",
    "Options",
    "Outcome",
    "PairsOf",
    "Record",
    "Refusal",
    "checked_pair",
    "kind",
    "number",
    "prompt_refusal",
]

_Value = TypeVar("_Value")
DivergingPrompts = Literal["drop", "truncate"]
PairsOf = Literal["all", "adjacent", "best_vs_worst", "best_vs_random"]


@dataclass(frozen=True, slots=True)
class Options:
    """What the user decides where the data leaves it open.

    Args:
        pairs: which pairs to make of more than two responses.
        by: which rating says what is better; None for the format's own.
        diverging_prompts: what to do with two conversations that differ before their last
            responses: "drop" skips them, "truncate" compares the responses where they differ first.
        ties: "keep" makes pairs of rows that name a preferred side and rate both sides equally.
        prefix: goes before the posts of summarisation rows; None for the recipe's own.
        seed: draws the random side of "best_vs_random".
    """

    pairs: PairsOf = "all"
    by: str | None = None
    diverging_prompts: DivergingPrompts = "drop"
    ties: Literal["drop", "keep"] = "drop"
    prefix: str | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a row, or two of its responses, make no pair. Reports count rows by `reason`."""

    reason: str


Outcome = Pair | Refusal


@dataclass(frozen=True, slots=True)
class Record:
    """One row: its columns, its place for errors, and the id and source of the pairs made of it.

    Accessors raise InputError that begins with the place: a column of a wrong type is a mistake in
    the file or a wrong format, never a reason to skip the row.
    """

    id: str
    where: str
    source: str
    columns: Mapping[str, object]

    def get(self, key: str) -> object:
        """Return the column's value. Raises InputError where the row has no such column."""
        if key not in self.columns:
            raise InputError(
                self.where,
                f"no column {key!r}, which the first rows of the file have",
                "fix the row or name the right format",
            )
        return self.columns[key]

    def text(self, key: str) -> str:
        return self.as_text(self.get(key), key)

    def as_text(self, value: object, name: str) -> str:
        """Return `value`, which may be empty. Raises InputError where it is not a valid text."""
        if not isinstance(value, str):
            raise self.wrong(name, value, "a text")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(
                self.where,
                f"{name!r} holds half of a surrogate pair",
                "fix the text's encoding",
            ) from None
        return value

    def as_list(self, value: object, name: str) -> list[object]:
        if not isinstance(value, list | tuple):
            raise self.wrong(name, value, "a list")
        return list(value)

    def as_object(self, value: object, name: str) -> Mapping[str, object]:
        if not isinstance(value, Mapping):
            raise self.wrong(name, value, "an object")
        return value

    def as_number(self, value: object, name: str) -> float | None:
        """Return `value` as a finite number, or None where it states none, as `number` does.

        Raises InputError for anything else.
        """
        try:
            return number(value)
        except ValueError:
            raise self.wrong(name, value, "a number") from None

    def one_of(self, key: str, known: Mapping[Any, _Value]) -> _Value:
        """Return `known[value of the column]`. Raises InputError for any other value."""
        value = self.get(key)
        if isinstance(value, Hashable) and not isinstance(value, bool) and value in known:
            return known[value]
        listed = ", ".join(repr(one) for one in known)
        raise InputError(self.where, f"{key!r} is {_shown(value)}", f"use one of {listed}")

    def rest(self, *used: str) -> dict[str, object]:
        """Return the columns that are neither the id nor among `used`."""
        return {key: value for key, value in self.columns.items() if key not in ("id", *used)}

    def wrong(self, name: str, value: object, wanted: str) -> InputError:
        return InputError(
            self.where,
            f"{name!r} is {kind(value)} where {wanted} is expected",
            "fix the row or name the right format",
        )


def number(value: object) -> float | None:
    """Return a finite number, also one written as text; None for null, "", "N/A", NaN and infinity.

    Raises ValueError for anything else.
    """
    if value is None or (isinstance(value, str) and value.strip().upper() in ("", "N/A", "NAN")):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(value)
    found = float(value)
    return found if math.isfinite(found) else None


def kind(value: object) -> str:
    """Return the type of `value` in words for an error message, such as "a list"."""
    if value is None:
        return "null"
    if value == "":
        return "an empty text"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, int | float):
        return "a number"
    return "a list" if isinstance(value, Sequence) else type(value).__name__


def _shown(value: object) -> str:
    return (
        repr(value)
        if isinstance(value, str | int | float) and len(str(value)) < 40
        else (kind(value))
    )


def checked_pair(
    record: Record,
    prompt: Sequence[Message],
    chosen: str | Message,
    rejected: str | Message,
    *,
    suffix: str = "",
    source: str | None = None,
    margin: float | None = None,
    labels: Mapping[str, Mapping[str, float]] | None = None,
    fields: Mapping[str, object] | None = None,
) -> Outcome:
    """Return the pair, or a `Refusal` saying why a reward model could learn nothing from it.

    Sides that differ in surrounding blanks alone count as identical.
    """
    if refusal := prompt_refusal(prompt):
        return refusal
    said = {"chosen": _said(chosen), "rejected": _said(rejected)}
    if not all(one["content"].strip() or "tool_calls" in one for one in said.values()):
        return Refusal("empty reply")
    first, second = (with_keys(one, content=one["content"].strip()) for one in said.values())
    if first == second:
        return Refusal("identical sides")
    return Pair(
        id=record.id + suffix,
        prompt=tuple(prompt),
        chosen=said["chosen"]["content"],
        rejected=said["rejected"]["content"],
        margin=margin,
        source=record.source if source is None else source,
        labels=labels or {},
        fields=fields or {},
        messages={side: one for side, one in said.items() if set(one) != {"role", "content"}},
    )


def _said(response: str | Message) -> Message:
    return Message(role="assistant", content=response) if isinstance(response, str) else response


def prompt_refusal(prompt: Sequence[Message]) -> Refusal | None:
    """Return why there is nothing to respond to in these messages; None where there is."""
    if not any(message["role"] == "user" for message in prompt):
        return Refusal("no user turn")
    if prompt[-1]["role"] not in ("user", "tool"):
        return Refusal("prompt does not end with the user")
    if not any(m["content"].strip() for m in prompt if m["role"] == "user"):
        return Refusal("empty prompt")
    return None
