"""Read the completions and columns that built-in functions are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rollout.types import InputError

__all__ = ["completion_text", "completion_texts", "reference_column"]


def completion_text(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """Return the text of a completion: a plain string, or the contents of its messages.

    Raises `InputError` for a tool call, which is no text: every call would count as an empty one.
    """
    if isinstance(completion, str):
        return completion
    if any(message.get("tool_calls") for message in completion):
        raise InputError("tool_calls", "are no text, which it reads", "score them with a model")
    return "".join(message["content"] for message in completion)


def completion_texts(completions: Sequence[Any]) -> list[str]:
    """Return the texts of N completions. Raises as `completion_text` does."""
    return [completion_text(completion) for completion in completions]


def reference_column(columns: Mapping[str, Any], name: str, count: int) -> Sequence[object]:
    """Return column `name`, one value per completion, None for a row without a reference.

    Raises `InputError` when no row at all has the column, which would make every score missing.
    Without completions, `count` = 0, the column may be missing.
    """
    if name in columns:
        return columns[name]
    if count == 0:
        return []
    known = ", ".join(sorted(columns)) or "none"
    raise InputError(f"column {name!r}", f"no prompt has it to compare with (columns: {known})")
