"""Rows as JSON lines. Columns that JSON has no form for are the row's fault, not ours."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Sequence
from typing import Any

from rollout.errors import InputError

__all__ = ["encode_rows", "json_columns"]


def encode_rows(rows: Sequence[dict[str, Any]]) -> bytes:
    """One line per row. Raises ValueError for NaN and infinity."""
    return b"".join(_line(row) for row in rows)


def json_columns(columns: dict[str, Any], where: str) -> dict[str, Any]:
    """Columns as JSON can hold them: dates as ISO text, decimals as text, NaN and ±∞ as null.

    Raises InputError, which begins with `where`, for a column of another type: Parquet knows some.
    """
    try:
        json.dumps(columns, allow_nan=False)
        return columns
    except (TypeError, ValueError):
        return {str(name): _plain(value, name, where) for name, value in columns.items()}


def _line(row: dict[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which only ASCII JSON can hold
        return json.dumps(row, allow_nan=False).encode() + b"\n"


def _plain(value: Any, name: str, where: str) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item, name, where) for key, item in value.items()}
    if isinstance(value, list | tuple):
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
