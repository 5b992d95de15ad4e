"""JSON values and JSON lines: how they are read, checked and written.

A value from a file has the type `object` until `is_object`, `is_list` or `is_finite_number` has
checked it. A column of a type that JSON does not have is an error of its row.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard, TypeVar, cast

from rollout.errors import InputError, naming

__all__ = [
    "Damage",
    "Row",
    "encodable",
    "encode_rows",
    "is_finite_number",
    "is_list",
    "is_object",
    "json_columns",
    "json_kind",
    "parse_json",
    "read_jsonl",
    "to_json",
]

_T = TypeVar("_T")
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One row as read. `number` counts from 1; `where`, its place, begins every error message.

    `given` are the columns under the names of the file, where `value` differs from them.
    """

    number: int
    where: str
    value: object
    given: dict[str, object] | None = None


@dataclass(slots=True)
class Damage:
    """The rows of one file that could not be read: how many, and the errors of the first three."""

    count: int = 0
    first: list[str] = field(default_factory=list[str])

    def add(self, error: InputError) -> None:
        self.count += 1
        if len(self.first) < _MOST_NAMED:
            self.first.append(f"{error.where}: {error.problem}")

    def __str__(self) -> str:
        rows = "1 damaged row" if self.count == 1 else f"{self.count} damaged rows"
        more = self.count - len(self.first)
        named = [*self.first, f"and {more} more"] if more else self.first
        return f"{rows} skipped: {'; '.join(named)}"


def read_jsonl(
    path: Path, parse: Callable[[Row], _T], *, name: str = "", damage: Damage | None = None
) -> Iterator[_T]:
    """Yield what `parse` returns for each line of a JSONL file, in order; blank lines are skipped.

    Args:
        parse: raises InputError for a row that it cannot use.
        name: the file's name in errors, by default its path.
        damage: takes a row that cannot be read or parsed, and reading goes on after it.

    Raises:
        InputError: the first row that cannot be read or parsed, without `damage`.
        OSError: there is no such file, or it cannot be read.
    """
    with naming(path), open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                where = f"{name or path}:{number}"
                found = parse(Row(number, where, _parse_line(line, where)))
            except InputError as error:
                if damage is None:
                    raise
                damage.add(error)
            else:
                yield found


def parse_json(text: str, where: str) -> object:
    """Return the JSON value of `text`. Raises InputError, one line that begins with `where`."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            where,
            f"not valid JSON ({error.msg.removesuffix(' at')} at column {error.colno})",
            "fix or delete it",
        ) from None
    except (RecursionError, ValueError) as error:
        raise InputError(where, f"not readable JSON ({error})", "fix or delete it") from None


def to_json(value: object, *, indent: int | None = None, ascii: bool = False) -> str:
    """Return `value` as JSON; NaN and infinity, which sums of huge numbers can be, become null."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=ascii, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, ensure_ascii=ascii, allow_nan=False)


def encode_rows(rows: Iterable[Mapping[str, object]]) -> bytes:
    """Return the rows as UTF-8 JSON, one line per row. Raises ValueError for NaN and infinity."""
    return b"".join(_line(row) for row in rows)


def encodable(text: str, where: str, key: str) -> str:
    """Return `text`. Raises InputError where it holds half of a surrogate pair.

    JSON allows that, but UTF-8 cannot encode it.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(
            where, f"{key!r} holds half of a surrogate pair", "fix the text's encoding"
        ) from None
    return text


def json_columns(columns: Mapping[str, object], where: str) -> dict[str, object]:
    """Return columns as JSON holds them: dates as ISO text, decimals as text, NaN and ±∞ as null.

    Raises InputError, which begins with `where`, for a type without a JSON form, as Parquet has.
    """
    try:
        json.dumps(columns, allow_nan=False)
        return dict(columns)
    except (TypeError, ValueError):
        return {str(name): _plain(value, name, where) for name, value in columns.items()}


def is_object(value: object) -> TypeGuard[dict[str, object]]:
    """Return whether `value` is a JSON object."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[object]]:
    """Return whether `value` is a JSON list."""
    return isinstance(value, list)


def is_finite_number(value: object) -> TypeGuard[int | float]:
    """Return whether `value` is a finite number that a float can hold, and no bool."""
    try:
        return (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        )
    except OverflowError:  # JSON and YAML know no largest integer
        return False


def json_kind(value: object) -> str:
    """Return the type of a JSON value in words for an error message ("a list", "null")."""
    if value is None:
        return "null"
    if value == "":
        return "an empty string"
    names: dict[type, str] = {
        bool: "true or false",
        str: "a string",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in cast(Mapping[object, object], value).items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in cast(Iterable[object], value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parse_line(line: bytes, where: str) -> object:
    try:
        return parse_json(line.decode(), where)
    except UnicodeDecodeError:
        raise InputError(where, "not UTF-8", "fix or delete the line") from None
    except InputError:
        if line.endswith(b"\n"):
            raise
        raise InputError(where, "cut short", "delete the line") from None


def _line(row: Mapping[str, object]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which only ASCII JSON can hold
        return json.dumps(row, allow_nan=False).encode() + b"\n"


def _plain(value: object, name: str, where: str) -> object:
    if is_object(value):
        return {str(key): _plain(item, name, where) for key, item in value.items()}
    if isinstance(value, tuple):
        value = [*cast(tuple[object, ...], value)]
    if is_list(value):
        return [_plain(item, name, where) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if value is None or isinstance(value, str | int):
        return value
    raise InputError(
        where,
        f"column {name!r} holds {type(value).__name__}, which JSON has no form for",
        "leave the column out",
    )
