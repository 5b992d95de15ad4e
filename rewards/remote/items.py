"""What travels: items, their batches, and numbers read back without trust."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from rewards.types import RewardError
from rollout.types import InputError

__all__ = ["Item", "batched", "check_model", "entry", "name_all", "read_numbers"]


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to send, which is to bring `count` scores. `name` is for messages."""

    content: Any
    name: str
    count: int = 1


def batched(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Consecutive items of `size` scores at most; an item of more goes alone, never cut."""
    batches: list[list[Item]] = []
    room = 0
    for item in items:
        if not batches or item.count > room:
            batches.append([])
            room = size
        batches[-1].append(item)
        room -= item.count
    return batches


def name_all(items: Iterable[Item], limit: int = 5) -> str:
    """The names of items for a message, the first `limit` of them."""
    names = list(dict.fromkeys(item.name for item in items))
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def entry(answer: Any, key: str) -> Any:
    """`answer[key]`. Raises `RewardError` when the answer is no object or has no such key."""
    if not isinstance(answer, dict):
        raise RewardError(f'it answered a JSON {_kind(answer)}, not an object with "{key}"')
    if key not in answer:
        found = ", ".join(list(answer)[:5]) or "nothing"
        raise RewardError(f'its answer has no "{key}" (it has {found[:100]}): check the protocol')
    return answer[key]


def read_numbers(values: Any, expected: int, key: str) -> list[float | None]:
    """`expected` numbers, null as None; NaN and infinity are left to the caller's policy.

    Raises `RewardError` for another count, and for strings, booleans and anything else.
    """
    if not isinstance(values, list):
        raise RewardError(f'"{key}" is a JSON {_kind(values)}, not a list')
    if len(values) != expected:
        raise RewardError(f'"{key}" has {len(values)} entries where {expected} were asked for')
    return [_number(value, key) for value in values]


def check_model(answer: Any, model: str | None) -> None:
    """Raises `RewardError` when another model answered than the one that was asked for."""
    found = answer.get("model") if isinstance(answer, dict) else None
    if model is not None and found is not None and found != model:
        raise RewardError(f"model {_short(found)} answered, not {model!r}: check the setting model")


def check_positive(**settings: float) -> None:
    """Raises `InputError` for a setting that is no number above zero."""
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < float("inf"):
            raise InputError(f"{name}={value!r}: give a number above 0")


def _number(value: Any, key: str) -> float | None:
    if value is None:
        return None
    # a bool is an int to Python, and a "0.5" is a server that guesses
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RewardError(f'"{key}" has {_short(value)}: a score is a number or null')
    try:
        return float(value)
    except OverflowError as error:
        raise RewardError(f'"{key}" has a number too large for a score') from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
