"""Scores, and the responses that got them, out of a JSONL file that `raft score` or a run wrote.

A row holds {"responses", "scores"} of K samples, {"response" or "messages", "score"} of one, or
{"chosen", "rejected", "chosen_score", "rejected_score"} of a pair; "token_ids" where known. After
`raft score --output-column NAME` the scores stand in "NAME_scores" and so on.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.data.fields import is_finite_number
from rollout.types import Completion, InputError

__all__ = ["read_scored", "read_scores"]


@dataclass(frozen=True, slots=True)
class _Row:
    """`where` is the file and line."""

    where: str
    value: dict[str, Any]


def read_scores(path: Any, where: str, name: str | None = None) -> list[float | None]:
    """Every score of the file, in order, None where it is missing.

    Args:
        name: of the columns, as `raft score --output-column` got it.

    Raises `InputError`, beginning with `where`, for a file or row that cannot be read.
    """
    return [score for row in _rows(path, where) for score in _scores(row, name)]


def read_scored(path: Any, where: str) -> list[tuple[Completion, float | None]]:
    """Every response with its score, in order. Raises as `read_scores` does."""
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


def _rows(path: Any, where: str) -> Iterator[_Row]:
    file = Path(str(path)).expanduser()
    if not file.is_file():
        raise InputError(where, f"{path}: no such file", "give JSONL with scores")
    opener = gzip.open if file.suffix.lower() == ".gz" else open
    try:
        with opener(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _row(line, f"{where}: {path}:{number}")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(where, f"{path}: cannot be read ({error})", "give JSONL") from error


def _row(line: str, where: str) -> _Row:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(where, "not valid JSON", "fix or delete the line") from None
    if not isinstance(value, dict):
        raise InputError(where, "no JSON object", f"each line is one, with {_score_keys()}")
    return _Row(where, value)


def _score_keys(prefix: str = "") -> str:
    return (
        f'"{prefix}scores", "{prefix}score", or "{prefix}chosen_score" and "{prefix}rejected_score"'
    )


def _scores(row: _Row, name: str | None = None) -> list[float | None]:
    prefix = f"{name}_" if name else ""
    pair = f"{prefix}chosen_score", f"{prefix}rejected_score"
    if isinstance(row.value.get(f"{prefix}scores"), list):
        found = row.value[f"{prefix}scores"]
    elif f"{prefix}score" in row.value:
        found = [row.value[f"{prefix}score"]]
    elif all(column in row.value for column in pair):
        found = [row.value[column] for column in pair]
    else:
        raise InputError(row.where, f"has no {_score_keys(prefix)}", f"{_hint(row, name)}")
    return [_score(value, row.where) for value in found]


def _hint(row: _Row, name: str | None) -> str:
    found = (re.fullmatch(r"(.+?)_(?:chosen_|rejected_)?scores?", key) for key in row.value)
    names = sorted({match[1] for match in found if match} - {"chosen", "rejected"})
    if not names:
        return "score the file with raft score"
    there = f"it was scored with --output-column {' and '.join(names)}"
    return there if name else f"{there}: score it again without"


def _score(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if not is_finite_number(value):
        raise InputError(where, f"{value!r} is no score", "use finite numbers and null")
    return float(value)


def _completions(row: _Row) -> list[Completion]:
    value = row.value
    if "scores" in value:
        texts = value.get("responses")
        ids = value.get("token_ids") or [()] * len(texts or ())
    elif "score" in value:
        texts = [value.get("response", value.get("messages"))]
        ids = [value.get("token_ids") or ()]
    else:
        texts = [_side(row, "chosen"), _side(row, "rejected")]
        ids = [(), ()]
    if not isinstance(texts, list) or not isinstance(ids, list) or len(texts) != len(ids):
        raise InputError(row.where, "needs responses beside the scores, and one list of ids each")
    return [
        Completion(_text(text, row.where), tuple(one), "stop")
        for text, one in zip(texts, ids, strict=True)
    ]


def _side(row: _Row, side: str) -> Any:
    text = row.value.get(side)
    if isinstance(text, str) and "prompt" not in row.value:
        # a whole dialogue: its length would be the prompt's as well
        raise InputError(row.where, f'"{side}" without "prompt" hides where the response begins')
    return text


def _text(response: Any, where: str) -> str:
    """A response as it is, or the last message's content of a conversation."""
    if isinstance(response, list) and response and isinstance(response[-1], dict):
        response = response[-1].get("content")
    if not isinstance(response, str):
        raise InputError(where, "has scores without the response's text", "score with texts kept")
    return response
