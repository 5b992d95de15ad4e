"""Join flat rows, of one response each, into rows of the K responses to the same prompt."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from rollout.types import Completion, Message

__all__ = ["flat_answer", "is_flat", "pool_rows", "prompt_key"]

# name of a column in a flat row -> its name beside several responses
_MANY = {"finish_reason": "finish_reasons", "seed": "seeds", "rank": "ranks"}
_OWN = ("prompt", "response", "messages")


@dataclass(slots=True)
class _Pool:
    row: Row
    content: Content
    answers: list[Completion] = field(default_factory=list[Completion])
    columns: list[dict[str, object]] = field(default_factory=list[dict[str, object]])


def is_flat(known: Mapping[str, object]) -> bool:
    """Return whether a row is one response to a prompt."""
    return "responses" not in known and ("response" in known or "messages" in known)


def pool_rows(rows: Iterable[Row], each: str | None = None) -> Iterator[Row]:
    """Yield rows of K responses as they are, then the flat rows, joined by their prompts.

    Flat rows are held in memory until all rows are read; those of one prompt need not be adjacent.
    Their columns `score`, `NAME_score`, `finish_reason`, `seed` and `rank` become lists under the
    plural; `token_ids` and the column `each` become lists, others do where the rows differ. The id
    is that of the first row. A row that cannot be read has as its value the InputError, which
    begins with its place.
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
    """Return (the prompt, the response) of a row of `response` or `messages`.

    Raises InputError where one of them is missing or cannot be read.
    """
    if "response" not in known:
        messages = check_messages(known.get("messages"), where, "messages")
        return split_response(messages, where, "messages")
    return prompt_content(known.get("prompt"), where), read_answer(
        known["response"], where, "response"
    )


def prompt_key(content: Sequence[Message] | str) -> str:
    """Return a text that is equal for equal prompts, tool calls and reasoning included."""
    turns = content if isinstance(content, str) else [sorted(one.items()) for one in content]
    return json.dumps(turns, default=str)


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
