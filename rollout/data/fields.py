"""Parts of a row to score, checked: its id, its prompt, its responses.

Every error begins with `where`, the place of the row.
"""

from __future__ import annotations

import math
from typing import Any

from rollout.data.messages import check_messages, check_text, ending_with_user, json_kind
from rollout.data.rows import Row
from rollout.errors import InputError
from rollout.types import Completion, Message

__all__ = [
    "COMPARISONS",
    "NOT_FIELDS",
    "RANKING",
    "answer",
    "answered",
    "completion",
    "drawn_as",
    "is_finite_number",
    "prompt_content",
    "row_id",
]

Content = str | tuple[Message, ...]

# what a tournament compared: [[i, j, P(response i is better than j)], …]
COMPARISONS = "comparisons"
# the columns of a ranking among all of a row's responses, its scores apart
RANKING = frozenset({COMPARISONS, "ranking", "best", "tournament"})
# form -> columns that are the row's own; all others are handed on to reward functions
NOT_FIELDS: dict[str, tuple[str, ...]] = {
    "responses": ("id", "prompt", "responses"),
    "response": ("id", "prompt", "response"),
    "messages": ("id", "messages"),
    "pair": ("id", "prompt", "chosen", "rejected"),
}


def row_id(columns: dict[str, Any], row: Row, stem: str) -> str:
    """The id a row gives, or one by its number. Raises InputError for an id that is none."""
    given = columns.get("id")
    if given is None:
        return f"{stem}-{row.number:06d}"
    if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
        raise InputError(
            row.where,
            f"id is {json_kind(given)}",
            "make it a non-empty string, or leave it out",
        )
    return str(given)


def prompt_content(value: Any, where: str) -> Content:
    """Text as it stands, or messages that end with the user's. Raises InputError."""
    if isinstance(value, list):
        return ending_with_user(check_messages(value, where, "prompt"), where)
    return check_text(value, where, "prompt")


def answer(value: Any, where: str, key: str) -> str:
    """A response's text; the empty one is one too. Raises InputError."""
    if not isinstance(value, str):
        raise InputError(where, f"{key} is {json_kind(value)}", "a response is a text")
    if value:  # for half of a surrogate pair, which no tokenizer can read
        check_text("." + value, where, key)
    return value


def answered(messages: list[Message], where: str, key: str) -> tuple[tuple[Message, ...], str]:
    """(all but the last message, the last one's text). Raises InputError unless it is an answer."""
    *before, last = messages
    if last["role"] != "assistant":
        raise InputError(
            where,
            f"{key!r} ends with a message of the {last['role']}",
            "a conversation to score ends with the assistant's",
        )
    return tuple(before), last["content"]


def completion(text: str, token_ids: Any = None, finish_reason: Any = None) -> Completion:
    """With the token ids and finish reason of a rollout where the row has them."""
    ids = tuple(token_ids) if isinstance(token_ids, list) else ()
    return Completion(text, ids, "length" if finish_reason == "length" else "stop")


def drawn_as(columns: dict[str, Any]) -> int:
    """The policy version that a rollout notes; 0 for responses that came from elsewhere."""
    version = columns.get("policy_version")
    return version if isinstance(version, int) else 0


def is_finite_number(value: Any) -> bool:
    """Whether `value` is a number, no bool, that a float can hold."""
    try:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(value)
    except OverflowError:  # JSON and YAML know no largest integer
        return False
