"""Read scores and their responses from a JSONL file that `raft score` or a run wrote.

A row holds {"responses", "scores"} of K samples, {"response" or "messages", "score"} of one, or
{"chosen", "rejected", "chosen_score", "rejected_score"} of a pair; "token_ids" where known. After
`raft score --output-column NAME` the scores stand in "NAME_scores" and so on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rollout.data.bad_rows import SkippedRow
from rollout.data.forms import known_columns
from rollout.data.jsonl import is_list, is_object
from rollout.data.rows import read_rows, without_error
from rollout.data.samples import score_of
from rollout.data.sources import Source
from rollout.errors import InputError
from rollout.types import Completion

__all__ = ["read_scored", "read_scores"]


@dataclass(frozen=True, slots=True)
class _Row:
    where: str
    columns: dict[str, object]


def read_scores(path: object, where: str, name: str | None = None) -> list[float | None]:
    """Return every score of the file, in order, None where a score is missing.

    Args:
        name: the prefix of the score columns, as given to `raft score --output-column`.

    Raises `InputError`, beginning with `where`, for a file or row that cannot be read, and for a
    score that is not finite.
    """
    return [score for row in _rows(path, where) for score in _scores(row, name)]


def read_scored(path: object, where: str) -> list[tuple[Completion, float | None]]:
    """Return every response with its score, in order.

    Raises InputError as `read_scores` does, and for a row whose scores do not fit its responses.
    """
    pairs: list[tuple[Completion, float | None]] = []
    for row in _rows(path, where):
        completions, scores = _completions(row), _scores(row)
        if len(completions) != len(scores):
            raise InputError(
                row.where,
                f"{len(scores)} scores for {len(completions)} responses",
                "give one per response",
            )
        pairs.extend(zip(completions, scores, strict=True))
    return pairs


def _rows(path: object, where: str) -> Iterator[_Row]:
    if not Path(str(path)).expanduser().is_file():
        raise InputError(where, f"{path}: no such file", "give JSONL with scores")
    try:
        for row in read_rows(
            Source(str(path), "jsonl", "", (Path(str(path)).expanduser(),)), keep_errors=True
        ):  # JSONL, whatever its name ends in
            if isinstance(row.value, SkippedRow):
                continue
            if not is_object(columns := without_error(row).value):
                raise InputError(
                    row.where, "no JSON object", f"each line is one, with {_score_keys()}"
                )
            yield _Row(f"{where}: {row.where}", columns)
    except InputError as error:
        raise InputError(where, error) from error


def _score_keys(prefix: str = "") -> str:
    return (
        f'"{prefix}scores", "{prefix}score", or "{prefix}chosen_score" and "{prefix}rejected_score"'
    )


def _scores(row: _Row, name: str | None = None) -> list[float | None]:
    prefix = f"{name}_" if name else ""
    sides = f"{prefix}chosen_score", f"{prefix}rejected_score"
    found = row.columns.get(f"{prefix}scores")
    if not is_list(found):
        if f"{prefix}score" in row.columns:
            found = [row.columns[f"{prefix}score"]]
        elif all(column in row.columns for column in sides):
            found = [row.columns[column] for column in sides]
        else:
            raise InputError(row.where, f"has no {_score_keys(prefix)}", _hint(row, name))
    return [_score(value, row.where) for value in found]


def _hint(row: _Row, name: str | None) -> str:
    found = (re.fullmatch(r"(.+?)_(?:chosen_|rejected_)?scores?", key) for key in row.columns)
    names = sorted({match[1] for match in found if match} - {"chosen", "rejected"})
    if not names:
        return "score the file with raft score"
    there = f"it was scored with --output-column {' and '.join(names)}"
    return there if name else f"{there}: score it again without"


def _score(value: object, where: str) -> float | None:
    score = score_of(value, where, f"the score {value!r}")
    if score is not None and not math.isfinite(score):
        raise InputError(where, f"has the score {score}", "use finite numbers and null")
    return score


def _completions(row: _Row) -> list[Completion]:
    columns = known_columns(row.columns, row.where)
    if "scores" in columns:
        texts = columns.get("responses")
        ids = columns.get("token_ids")
    elif "score" in columns:
        texts = [columns.get("response", columns.get("messages"))]
        ids = [columns.get("token_ids")]
    else:
        texts = [_side(columns, side, row.where) for side in ("chosen", "rejected")]
        ids = None
    ids = ids or [None] * len(texts if is_list(texts) else [])
    if not is_list(texts) or not is_list(ids) or len(texts) != len(ids):
        raise InputError(
            row.where,
            "does not have a response and a list of token ids for each score",
            "keep the responses beside their scores",
        )
    return [
        Completion(_text(text, row.where), tuple(cast(list[int], one or ())))
        for text, one in zip(texts, ids, strict=True)
    ]


def _side(columns: Mapping[str, object], side: str, where: str) -> object:
    text = columns.get(side)
    if isinstance(text, str) and "prompt" not in columns:
        # a whole conversation: its length would be the prompt's as well
        raise InputError(
            where,
            f'"{side}" without "prompt" hides where the response begins',
            "give the row its prompt",
        )
    return text


def _text(response: object, where: str) -> str:
    """Return a response's text: as it is, or the content of a conversation's last message.

    Raises InputError where there is no text.
    """
    if is_list(response) and response and is_object(response[-1]):
        response = response[-1].get("content")
    if not isinstance(response, str):
        raise InputError(where, "has scores without the response's text", "score with texts kept")
    return response
