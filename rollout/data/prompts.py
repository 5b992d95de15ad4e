"""Read prompts from the rows of a file or a dataset.

Tokenizers are the matter of `rollout.text.templates`, file formats that of `rollout.data.rows`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

from rollout.data.bad_rows import BadRows
from rollout.data.forms import column as column_of
from rollout.data.forms import handed_on, known_columns
from rollout.data.jsonl import is_list, is_object, json_kind
from rollout.data.messages import Content, begins_with_hh_turn, hh_prompt, prompt_content
from rollout.data.pairs import shared_prompt
from rollout.data.rows import Row, read_rows, row_id, without_error
from rollout.data.sources import find_source
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
    columns: Mapping[str, str] | None = None,
    split: str = "train",
    separator: str | None = None,
    first_words: int | None = None,
    limit: int | None = None,
    bad: BadRows | None = None,
) -> list[Prompt]:
    r"""Read prompts from a file, a folder, standard input or a `datasets` name.

    Args:
        path: see `rollout.data.sources.find_source`; a dataset as `name` or `name:config`.
        format: how a row becomes a prompt. "auto" takes it as it stands, and parses the text of
            `chosen`/`rejected` rows; "text" wants text; "messages" makes text one user turn;
            "hh" parses text of `\n\nHuman: …\n\nAssistant: …` turns (Bai et al. 2022).
        column: the column that holds the prompt, by default "prompt"; dotted for one inside
            another.
        columns: other names of columns, see `rollout.data.forms.renamed`.
        split: the split of a dataset; files have none.
        separator: splits plain text into documents; without it, each line is a prompt.
        first_words: cut a text prompt after this many words. A line or document of plain text
            with fewer is skipped and counted in the log.
        limit: stop after so many prompts.
        bad: takes rows that are no prompts; by default the first one is an error.

    Returns:
        Prompts in file order. An id that the row does not give is `{stem}-{number:06d}`, numbered
        as in `rollout.data.rows.read_rows`. Columns other than the id and the prompt are `fields`.
        Equal rows with the same id are one prompt; a different prompt whose id is taken gets ~2,
        ~3, … after it.

    Raises:
        InputError: for anything wrong with the file or an argument, with file and line.
    """
    _check_arguments(format, first_words, limit)
    source = find_source(path, split=split, columns=columns)
    if source.kind == "text" and column is not None:
        raise InputError(source.name, "plain text has no columns", "leave prompts.column out")
    skipped: list[str] = []
    rows, bad = read_rows(source, separator=separator, keep_errors=True), bad or BadRows()
    if source.kind == "text":
        rows = _long_enough(rows, first_words, skipped)
    parsed = _parsed(rows, source.stem, format, column, first_words, bad)
    prompts = _with_unique_ids(islice(parsed, limit), source.name)
    bad.warn(source.name, logger)
    if skipped:
        logger.info(
            "%s: skipped %d texts of fewer than %s words", source.name, len(skipped), first_words
        )
    if not prompts:
        all_short = f"prompts (all {len(skipped)} are shorter than first_words)"
        raise bad.nothing_left(source.name, all_short if skipped else "prompts")
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
    """Yield the plain texts of at least `words` words; append the places of others to `skipped`."""
    for row in rows:
        if words is None or _opening(str(_columns(row)["prompt"]), words) is not None:
            yield row
        else:
            skipped.append(row.where)


def _opening(text: str, words: int) -> str | None:
    """Return the first `words` words of the text with their spacing; None where it has fewer."""
    ends = [match.end() for match in islice(re.finditer(r"\S+", text), words)]
    return text[: ends[-1]] if len(ends) == words else None


def _with_unique_ids(prompts: Iterable[Prompt], name: str) -> list[Prompt]:
    """Return the prompts without repeated ones; a different prompt of a known id gets ~2, ~3, …"""
    seen: dict[str, list[Prompt]] = {}
    found: dict[str, Prompt] = {}
    again = renamed = 0
    for prompt in prompts:
        same = seen.setdefault(prompt.id, [])
        if prompt in same:
            again += 1
            continue
        same.append(prompt)
        number, id = len(same), prompt.id
        while id in found:
            id, number = f"{prompt.id}~{number}", number + 1
        renamed += id != prompt.id
        found[id] = prompt if id == prompt.id else replace(prompt, id=id)
    if again or renamed:
        logger.info(
            "%s: %d rows stand more than once and are one prompt; %d ids of another prompt got "
            "~2, ~3, …", name, again, renamed,
        )  # fmt: skip
    return list(found.values())


def _parsed(
    rows: Iterable[Row],
    stem: str,
    format: str,
    column: str | None,
    words: int | None,
    bad: BadRows,
) -> Iterator[Prompt]:
    for row in rows:
        try:
            prompt = _prompt(without_error(row), stem, format, column, words)
        except InputError as error:
            bad.take(row.number, row.where, error)
        else:
            yield prompt


def _prompt(row: Row, stem: str, format: str, column: str | None, words: int | None) -> Prompt:
    columns = _columns(row)
    if column is not None:
        columns = {**columns, "prompt": column_of(columns, column, row.where)}
        if column != "prompt":
            columns.pop(column, None)
    known = known_columns(columns, row.where)
    fields = handed_on(columns, known, ("id", "prompt"))
    content = _content(row, columns, known, format)
    if words is not None:
        content = _shortened(row, content, words)
    return Prompt(row_id(columns, row, stem), content, fields)


def _columns(row: Row) -> dict[str, object]:
    if not is_object(row.value):
        raise InputError(
            row.where,
            f"holds {json_kind(row.value)} where an object is expected",
            'write {"prompt": "…"}',
        )
    return row.value


def _content(
    row: Row, columns: dict[str, object], known: dict[str, object], format: str
) -> Content:
    if known.get("prompt") is None and is_list(sides := known.get("responses")) and len(sides) == 2:
        known |= dict(zip(("chosen", "rejected"), sides, strict=True))  # two conversations
    if "messages" in known and "prompt" not in known:
        known["prompt"] = _without_answer(known["messages"])
    value = known.get("prompt")
    dialogue = isinstance(value, str) and begins_with_hh_turn(value)
    # HH-RLHF's own rows (two whole conversations), and rows with an HH prompt beside the sides
    if known.keys() >= _PAIR and (value is None or dialogue) and format != "text":
        return shared_prompt(known, row.where)
    if "prompt" not in known:
        raise InputError(
            row.where,
            "no column 'prompt'",
            f"name one of {', '.join(columns) or '(none)'} in prompts.column",
        )
    content = prompt_content(value, row.where)
    if not isinstance(content, str):
        if format in ("text", "hh"):
            raise InputError(
                row.where,
                f"'prompt' holds messages where prompts.format: {format} reads text",
                "set it to messages",
            )
        return content
    if format == "hh":
        if not begins_with_hh_turn(content):
            raise InputError(
                row.where,
                "'prompt' does not begin with a Human: or Assistant: turn",
                "set prompts.format: text",
            )
        return hh_prompt(content, row.where, "prompt")
    return (Message(role="user", content=content),) if format == "messages" else content


def _without_answer(messages: object) -> object:
    """Return the messages before the assistant's last one, or all where another role is last."""
    if not is_list(messages) or not messages:
        return messages
    *before, last = messages
    answered = is_object(last) and last.get("role", last.get("from")) in ("assistant", "gpt")
    return before if answered else messages


def _shortened(row: Row, content: str | tuple[Message, ...], words: int) -> str:
    if not isinstance(content, str):
        raise InputError(
            row.where,
            "first_words cuts text and this prompt is messages",
            "leave prompts.first_words out",
        )
    return _opening(content, words) or content
