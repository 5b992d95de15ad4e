"""Reading a spec from a mapping, with every mistake in one line."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from difflib import get_close_matches

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from rewards.spec import KINDS, RewardSpec, known_settings
from rollout.data.jsonl import json_kind
from rollout.errors import InputError

__all__ = ["complaint", "read_reward", "rewritten", "takes"]

_ADAPTER: TypeAdapter[RewardSpec] = TypeAdapter(RewardSpec)


def read_reward(given: Mapping[str, object], where: str) -> RewardSpec:
    """The spec that a mapping says; `where` names the mapping in messages.

    Raises:
        InputError: every complaint in one line, with the likely key for a typo.
    """
    try:
        return _ADAPTER.validate_python(given)
    except ValidationError as error:
        told = [_with_suggestion(*complaint(item, within="reward")) for item in error.errors()]
        raise InputError(where, "; ".join(told)) from error


def takes(kind: object, setting: str) -> bool:
    """Whether rewards of `kind` have this setting."""
    return isinstance(kind, str) and kind in KINDS and setting in KINDS[kind].model_fields


def rewritten(stored: object) -> object:
    """A section of a stored config as this version would have written it, for comparisons.

    Earlier versions listed the settings of every kind. What cannot be read stays as it is.
    """
    try:
        return _ADAPTER.dump_python(_ADAPTER.validate_python(stored), mode="json")
    except ValidationError:
        return stored


def complaint(error: ErrorDetails, within: str | None = None) -> tuple[str, str]:
    """(the dotted key as its user wrote it, what is wrong there) of an error of pydantic's.

    pydantic's places name the kind that a reward was read as, and the member's reward apart.
    `within` is the section that was read by itself: keys are those in it.
    """
    place: list[str] = []
    before: int | str | None = within
    for part in error["loc"]:
        of_member = isinstance(before, int) and part == "reward"
        tag = before in ("reward", "gold") and part in KINDS
        if not (of_member or tag):
            place.append(str(part))
        before = part
    if error["type"] == "union_tag_not_found":
        return ".".join([*place, "kind"]), "missing"
    if error["type"] == "union_tag_invalid":
        known = ", ".join(KINDS)
        got = error["ctx"]["tag"] if "ctx" in error else ""
        return ".".join([*place, "kind"]), f"Input should be one of {known} (got {got!r})"
    if error["type"] == "missing":
        return ".".join(place), "missing"
    if error["type"] == "extra_forbidden":
        return ".".join(place), "unknown key"
    message, given = error["msg"].removeprefix("Value error, "), error["input"]
    if error["type"] == "string_type" and isinstance(given, bool | int | float | date):
        kind = "a date" if isinstance(given, date) else json_kind(given)
        quoted = "" if isinstance(given, bool) else f': "{given}", in a shell \'"{given}"\''
        return ".".join(place), f"is {kind} to YAML ({given}); quote it{quoted}"
    plain = bool(place) and isinstance(given, str | int | float | bool | None)
    return ".".join(place), f"{message} (got {given!r})" if plain else message


def _with_suggestion(key: str, text: str) -> str:
    if text == "unknown key":
        close = get_close_matches(key.rpartition(".")[2], sorted(known_settings()), n=1)
        text += f"; did you mean {close[0]}?" if close else ""
    return f"{key}: {text}" if key else text
