"""Flat rows, one response each, put together to rows of K responses by the prompt they answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from rollout.data.forms import known_columns
from rollout.data.jsonl import Row, is_object
from rollout.data.messages import (
    Content,
    check_messages,
    prompt_content,
    read_answer,
    split_response,
)
from rollout.errors import InputError
from rollout.types import Completion

__all__ = ["flat_answer", "is_flat", "pool_rows", "prompt_key"]

# what a column of one response is called beside several
_MANY = {"finish_reason": "finish_reasons", "seed": "seeds", "rank": "ranks"}
_OWN = ("prompt", "response", "messages")


@dataclass(slots=True)
class _Pool:
    row: Row
    content: Content
    answers: list[Completion] = field(default_factory=list[Completion])
    columns: list[dict[str, object]] = field(default_factory=list[dict[str, object]])


def is_flat(known: Mapping[str, object]) -> bool:
    """Whether a row is one response to a prompt."""
    return "responses" not in known and ("response" in known or "messages" in known)


def pool_rows(rows: Iterable[Row], each: str | None = None) -> Iterator[Row]:
    """Rows of K responses as they are; then the flat ones, which are held until all are read,
    together where they answer the same prompt, wherever they stand.

    Of their columns, `score` and `NAME_score` become lists `scores` and `NAME_scores`, `each` a
    list, others a list where they differ. The id is that of the first row.

    A row that cannot be read has the InputError, which begins with its place, as its value.
    """
    pools: dict[str, _Pool] = {}
    for row in rows:
        try:
            known = known_columns(row.value, row.where) if is_object(row.value) else {}
            if not is_flat(known):
                yield row
                continue
            content, answer = flat_answer(known, row.where)
        except InputError as error:
            yield replace(row, value=error)
            continue
        pool = pools.setdefault(prompt_key(content), _Pool(row, content))
        pool.answers.append(answer)
        pool.columns.append({key: value for key, value in known.items() if key not in _OWN})
    for pool in pools.values():
        yield replace(pool.row, value=_together(pool, each), given=None)


def flat_answer(known: dict[str, object], where: str) -> tuple[Content, Completion]:
    """The prompt and the response of a row of `response` or `messages`. Raises InputError."""
    if "response" not in known:
        messages = check_messages(known.get("messages"), where, "messages")
        return split_response(messages, where, "messages")
    return prompt_content(known.get("prompt"), where), read_answer(
        known["response"], where, "response"
    )


def prompt_key(content: Content) -> str:
    """Equal for equal prompts."""
    return json.dumps(content)


def _together(pool: _Pool, each: str | None) -> dict[str, object]:
    found: dict[str, object] = {
        "prompt": pool.content if isinstance(pool.content, str) else list(pool.content),
        "responses": [one.message or one.text for one in pool.answers],
    }
    for name in dict.fromkeys(name for columns in pool.columns for name in columns):
        values = [columns.get(name) for columns in pool.columns]
        if name == each:
            found[name] = values
        elif name == "score" or name.endswith("_score"):
            found[f"{name}s"] = values
        elif name in _MANY or name == "token_ids":
            found[_MANY.get(name, name)] = values
        elif name == "id" or all(value == values[0] for value in values):
            found[name] = values[0]
        else:
            found[name] = values
    return found
