"""Read a spec from a mapping, with all mistakes named in one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from difflib import get_close_matches

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from rewards.spec import KINDS, RewardSpec, known_settings
from rollout.data.jsonl import is_list, json_kind
from rollout.errors import InputError

__all__ = ["complaints", "in_words", "read_reward", "rewritten", "takes"]

_ADAPTER: TypeAdapter[RewardSpec] = TypeAdapter(RewardSpec)
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
# type of an error of pydantic's -> what was wanted; {…} is a limit in the error's context
_WANTED = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "string": "text",
    "list": "a list", "tuple": "a list", "dict": "a section of key: value", "finite": "finite",
    "model": "a section of key: value", "dataclass": "a section of key: value",
    "model_attributes": "a section of key: value",
    "greater_than": "more than {gt}", "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}", "less_than_equal": "{le} or less",
    "too_short": "{min_length} entries or more",
}  # fmt: skip
# names of the parts of a union, which pydantic puts into the places of errors
_BRANCH = re.compile(
    r"(str|int|float|bool|callable|constrained-.*|function-.*|(literal|list|tuple|dict)\[.*\])$"
    r"|[A-Z]\w+$"
)


def read_reward(given: Mapping[str, object], where: str) -> RewardSpec:
    """Read the spec of a reward from a mapping; `where` names the mapping in messages.

    Raises:
        InputError: every complaint in one line, with the likely key for a typo.
    """
    try:
        return _ADAPTER.validate_python(given)
    except ValidationError as error:
        told = [_with_suggestion(*one) for one in complaints(error, within="reward")]
        raise InputError(where, "; ".join(told)) from error


def takes(kind: object, setting: str) -> bool:
    """Return whether rewards of `kind` have this setting."""
    return isinstance(kind, str) and kind in KINDS and setting in KINDS[kind].model_fields


def rewritten(stored: object) -> object:
    """Return a section of a stored config as this version would write it, for comparisons.

    Earlier versions listed the settings of every kind. What cannot be read stays as it is.
    """
    try:
        return _ADAPTER.dump_python(_ADAPTER.validate_python(stored), mode="json")
    except ValidationError:
        return stored


def complaints(error: ValidationError, within: str | None = None) -> list[tuple[str, str]]:
    """Return (dotted key as its user wrote it, what is wrong there) for each key with errors.

    `within` is the section that was read by itself: keys are those in it.
    """
    found: dict[str, list[ErrorDetails]] = {}
    for item in error.errors():
        found.setdefault(".".join(_place(item, within)), []).append(item)
    # a section may also be `false`: where a key in it is wrong, that it is not `false` is omitted
    deeper = {key for key in found if any(other.startswith(f"{key}.") for other in found)}
    return [(key, _joined(found[key], key)) for key in found if not key or key not in deeper]


def in_words(error: ErrorDetails) -> str:
    """Return what is wrong, as a clause behind the key: "is 0, not 1 or more"."""
    kind, given = error["type"], error["input"]
    if kind in _UNKNOWN:
        return "unknown key"
    if kind in ("missing", "union_tag_not_found"):
        return "missing"
    if kind == "string_type" and isinstance(given, bool | int | float | date):
        what = "a date" if isinstance(given, date) else json_kind(given)
        quoted = "" if isinstance(given, bool) else f': "{given}", in a shell \'"{given}"\''
        return f"is {what} to YAML ({given}); quote it{quoted}"
    wanted = _wanted(error)
    if wanted is None:
        return error["msg"].removeprefix("Value error, ")
    return f"is {_short(error)}, not {wanted}"


def _wanted(error: ErrorDetails) -> str | None:
    kind, context = error["type"], error.get("ctx", {})
    if kind in ("union_tag_invalid", "literal_error"):
        known = str(context.get("expected_tags") or context.get("expected")).replace("'", "")
        known = known.replace(" or ", ", ")
        return f"one of {known}" if "," in known else known
    told = _WANTED.get(kind) or _WANTED.get(re.split("_(type|parsing|from|number)", kind)[0])
    return None if told is None else told.format_map(context)


def _short(error: ErrorDetails) -> str:
    given: object = error["input"]
    if error["type"] == "union_tag_invalid":
        given = error.get("ctx", {}).get("tag")
    if error["type"] == "too_short" and is_list(given):
        return f"{len(given)} of them" if given else "empty"
    if not isinstance(given, str | int | float):
        return json_kind(given)
    text = repr(given)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _joined(errors: list[ErrorDetails], key: str) -> str:
    """Join the errors of one key into one clause.

    Several errors come from the parts of a union, which were all given the same value.
    """
    wanted = [one for item in errors if (one := _wanted(item)) is not None]
    if len(errors) > 1 and len(wanted) == len(errors):
        return f"is {_short(errors[0])}, not {', or '.join(dict.fromkeys(wanted))}"
    texts = [
        f"{text} (got {item['input']!r})"
        if key and _wanted(item) is None and _is_plain(item, text)
        else text
        for item in errors
        if (text := in_words(item))
    ]
    return "; ".join(dict.fromkeys(texts))


def _is_plain(error: ErrorDetails, text: str) -> bool:
    """Return whether an error's value is short, and the message `text` does not give it."""
    said = text in ("missing", "unknown key") or " to YAML (" in text
    return not said and isinstance(error["input"], str | int | float | bool | None)


def _place(error: ErrorDetails, within: str | None) -> list[str]:
    """Return the place of an error in the user's own keys.

    pydantic's places also name the kind that a reward or an update was read as, the field `reward`
    of a member, and the part of a union: these are removed.
    """
    place: list[str] = []
    before: int | str | None = within
    for at, part in enumerate(error["loc"]):
        of_member = isinstance(before, int) and part == "reward"
        tag = before == "update" or (before in ("reward", "gold") and part in KINDS)
        branch = at > 0 and isinstance(part, str) and _BRANCH.match(part)
        if not (of_member or tag or branch):
            place.append(str(part))
        before = part
    return [*place, "kind"] if error["type"].startswith("union_tag") else place


def _with_suggestion(key: str, text: str) -> str:
    if text == "unknown key":
        close = get_close_matches(key.rpartition(".")[2], sorted(known_settings()), n=1)
        text += f"; did you mean {close[0]}?" if close else ""
    return f"{key}: {text}" if key else text
