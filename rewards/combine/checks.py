"""Checks of plain settings, each error one line that begins with the setting's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rollout.data.jsonl import is_finite_number
from rollout.types import InputError

__all__ = ["check_keys", "finite_number", "one_of"]


def check_keys(given: object, where: str, known: Sequence[str]) -> dict[str, object]:
    """Return `given` as a dict, without keys of value None.

    Raises `InputError` where it is no mapping or has unknown keys.
    """
    if not isinstance(given, Mapping):
        raise InputError(where, f"{given!r} is no mapping", f"its keys are {', '.join(known)}")
    for key in given:
        if key not in known:
            raise InputError(where, f"unknown key {key!r}", f"use some of {', '.join(known)}")
    return {str(key): value for key, value in given.items() if value is not None}


def finite_number(
    value: object, where: str, *, above: float | None = None, at_least: float | None = None
) -> float:
    """Return `value` as a float. Raises `InputError` unless it is finite and within its bound."""
    if not is_finite_number(value):
        raise InputError(where, f"{value!r} is no finite number", "set it to one")
    if above is not None and not value > above:
        raise InputError(where, f"{value} must be more than {above:g}")
    if at_least is not None and not value >= at_least:
        raise InputError(where, f"{value} must be {at_least:g} or more")
    return float(value)


def one_of(value: object, where: str, known: Sequence[str]) -> str:
    """Return `value` when it is one of `known`. Raises `InputError` otherwise."""
    if not isinstance(value, str) or value not in known:
        raise InputError(where, f"{value!r} is unknown", f"use one of {', '.join(known)}")
    return value
