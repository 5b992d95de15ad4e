"""Prompts out of files: what a row means, whichever file or dataset it came from.

Knows nothing of tokenizers (see `rollout.text.templates`) and nothing of file formats (see
`rollout.data.rows`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

from rollout.data.jsonl import is_list, is_object, json_kind
from rollout.data.messages import (
    begins_with_hh_turn,
    check_messages,
    check_text,
    ending_with_user,
    hh_prompt,
    shared_prompt,
)
from rollout.data.rows import Row, find_source, read_rows, row_id
from rollout.errors import InputError
from rollout.types import Message, Prompt

Format = Literal["auto", "text", "messages", "hh"]

logger = logging.getLogger("rollout")

_PAIR = {"chosen", "rejected"}


def read_prompts(
    path: str | Path,
    *,
    format: Format = "auto",
    column: str | None = None,
    split: str = "train",
    separator: str | None = None,
    first_words: int | None = None,
    limit: int | None = None,
) -> list[Prompt]:
    r"""Read prompts from JSONL, a JSON list, Parquet, plain text, or a `datasets` name.

    Args:
        path: a file (`.jsonl`, `.json`, `.txt`, each also `.gz`; `.parquet`), or the name of a
            dataset, as `name` or `name:config`.
        format: how a row becomes a prompt. "auto" takes it as it stands, and parses the text of
            `chosen`/`rejected` rows; "text" wants text; "messages" makes text one user turn;
            "hh" parses text of `\n\nHuman: …\n\nAssistant: …` turns (Bai et al. 2022).
        column: the column that holds the prompt, "prompt" unless told.
        split: the split of a dataset; files have none.
        separator: splits plain text into documents; without it, each line is a prompt.
        first_words: keep the first so many words of a text prompt. A line or document of plain
            text with fewer is skipped and counted in the log.
        limit: stop after so many prompts.

    Returns:
        Prompts in file order. An id that the row does not give is `{stem}-{number:06d}`, numbered
        as in `rollout.data.rows.read_rows`. Columns other than the id and the prompt are `fields`.

    Raises:
        InputError: for anything wrong with the file or an argument, with file and line.
    """
    _check_arguments(format, first_words, limit)
    source = find_source(path)
    if source.kind == "text" and column is not None:
        raise InputError(source.name, "plain text has no columns", "leave prompts.column out")
    skipped: list[str] = []
    rows = read_rows(source, split=split, separator=separator)
    if source.kind == "text":
        rows = _long_enough(rows, first_words, skipped)
    parsed = (_prompt(row, source.stem, format, column, first_words) for row in rows)
    prompts = _with_unique_ids(islice(parsed, limit))
    if skipped:
        logger.info(
            "%s: skipped %d texts of fewer than %s words", source.name, len(skipped), first_words
        )
    if not prompts:
        reason = f" (all {len(skipped)} are shorter than first_words)" if skipped else ""
        raise InputError(source.name, f"holds no prompts{reason}", "name a file with at least one")
    return prompts


def _check_arguments(format: str, first_words: int | None, limit: int | None) -> None:
    if format not in get_args(Format):
        known = ", ".join(get_args(Format))
        raise InputError("prompts.format", f"{format!r} is not known", f"use one of {known}")
    for key, value in (("first_words", first_words), ("limit", limit)):
        if value is not None and value < 1:
            raise InputError(
                f"prompts.{key}",
                f"{value} is too small",
                "use 1 or more, or leave it out",
            )


def _long_enough(rows: Iterable[Row], words: int | None, skipped: list[str]) -> Iterator[Row]:
    """Plain texts with at least `words` words: a shorter opening is not an opening."""
    for row in rows:
        if words is None or _opening(str(_columns(row)["prompt"]), words) is not None:
            yield row
        else:
            skipped.append(row.where)


def _opening(text: str, words: int) -> str | None:
    """The text up to the end of word number `words`, its spacing kept; None where it is shorter."""
    ends = [match.end() for match in islice(re.finditer(r"\S+", text), words)]
    return text[: ends[-1]] if len(ends) == words else None


def _with_unique_ids(rows_and_prompts: Iterable[tuple[Row, Prompt]]) -> list[Prompt]:
    first_seen: dict[str, str] = {}
    prompts: list[Prompt] = []
    for row, prompt in rows_and_prompts:
        if prompt.id in first_seen:
            raise InputError(
                row.where,
                f"id {prompt.id!r} stands at {first_seen[prompt.id]} already",
                "give each row its own id, or none",
            )
        first_seen[prompt.id] = row.where
        prompts.append(prompt)
    return prompts


def _prompt(
    row: Row, stem: str, format: str, column: str | None, words: int | None
) -> tuple[Row, Prompt]:
    columns = _columns(row)
    # HH-RLHF's own rows: two whole dialogues and no prompt beside them
    pair = column is None and "prompt" not in columns and columns.keys() >= _PAIR
    key = column or "prompt"
    if pair and format != "text":
        content = shared_prompt(columns["chosen"], columns["rejected"], row.where)
    else:
        content = _content(row, columns, key, format)
    if words is not None:
        content = _shortened(row, content, words)
    fields = {name: value for name, value in columns.items() if name not in ("id", key)}
    return row, Prompt(row_id(columns, row, stem), content, fields)


def _columns(row: Row) -> dict[str, object]:
    if not is_object(row.value):
        raise InputError(
            row.where,
            f"holds {json_kind(row.value)} where an object is expected",
            'write {"prompt": "…"}',
        )
    return row.value


def _content(
    row: Row, columns: dict[str, object], key: str, format: str
) -> str | tuple[Message, ...]:
    if key not in columns:
        raise InputError(
            row.where,
            f"no column {key!r}",
            f"name one of {', '.join(columns) or '(none)'} in prompts.column",
        )
    value = columns[key]
    if is_list(value):
        if format in ("text", "hh"):
            raise InputError(
                row.where,
                f"{key!r} holds messages where prompts.format: {format} reads text",
                "set it to messages",
            )
        return ending_with_user(check_messages(value, row.where, key), row.where)
    text = check_text(value, row.where, key)
    # Dahoas/full-hh-rlhf rows: `prompt` is the dialogue, `chosen` and `rejected` its answers
    dialogue = columns.keys() >= _PAIR and begins_with_hh_turn(text)
    if format == "hh" or (format == "auto" and dialogue):
        return hh_prompt(text, row.where, key)
    return (Message(role="user", content=text),) if format == "messages" else text


def _shortened(row: Row, content: str | tuple[Message, ...], words: int) -> str:
    if not isinstance(content, str):
        raise InputError(
            row.where,
            "first_words cuts text and this prompt is messages",
            "leave prompts.first_words out",
        )
    return _opening(content, words) or content
