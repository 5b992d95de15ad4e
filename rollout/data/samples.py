"""One row of stored samples, checked: a prompt's K responses and what is noted beside each."""

from __future__ import annotations

from typing import Any

from rollout.data.fields import COMPARISONS, answer, is_finite_number
from rollout.data.messages import json_kind
from rollout.errors import InputError

__all__ = ["check_scores", "is_score_column", "sample_row", "score_columns"]

_BESIDE = ("finish_reasons", "token_ids")


def sample_row(row: Any, where: str, number: int) -> dict[str, Any]:
    """The row itself, with an id (its number, where it has none or null) and a finish reason per
    response.

    Raises InputError that begins with `where`.
    """
    if not isinstance(row, dict):
        raise InputError(where, f"holds {json_kind(row)} where an object is expected")
    responses = row.get("responses")
    if not isinstance(responses, list) or not responses:
        raise InputError(where, "no list of 'responses'", "give each row K texts")
    for k, text in enumerate(responses):
        if not isinstance(text, str):  # the full check costs more than the replay
            answer(text, where, f"responses[{k}]")
    for name in score_columns(row):
        check_scores(row[name], len(responses), f"{where}: {name!r}")
    for name in _BESIDE:
        if row.get(name) is not None and not _is_list(row[name], len(responses)):
            raise InputError(where, f"{name!r} does not fit {len(responses)} responses")
    reasons = row.get("finish_reasons") or [None] * len(responses)
    identity = number if row.get("id") is None else row["id"]
    sound = {**row, "id": str(identity), "finish_reasons": reasons}
    if row.get(COMPARISONS) is not None:
        sound[COMPARISONS] = _comparisons(row[COMPARISONS], len(responses), where)
    return sound


def score_columns(row: dict[str, Any]) -> list[str]:
    """`scores` and `NAME_scores`, one number or null per response."""
    return [name for name in row if is_score_column(name)]


def is_score_column(name: str) -> bool:
    return name == "scores" or name.endswith("_scores")


def check_scores(scores: Any, count: int, where: str) -> None:
    """Raises InputError, for other than a number or null for each of `count` responses."""
    if not _is_list(scores, count):
        raise InputError(where, f"does not hold one score for each of {count} responses")
    for k, score in enumerate(scores):
        # NaN and infinity, which some programs write, are missing scores
        if score is not None and not isinstance(score, float) and not is_finite_number(score):
            raise InputError(where, f"score {k} is {json_kind(score)}", "write a number or null")


def _comparisons(found: Any, count: int, where: str) -> list[list[Any]]:
    """With i and j as int: a column of Parquet has one type of number, and i is 0.0 there."""
    for one in found if isinstance(found, list) else [found]:
        sound = _is_list(one, 3) and _is_place(one[0], count) and _is_place(one[1], count)
        known = sound and (one[2] is None or (is_finite_number(one[2]) and 0 <= one[2] <= 1))
        if not known or one[0] == one[1]:
            raise InputError(
                where,
                f"{COMPARISONS!r} must be [[i, j, P(i is better than j)], …] of its {count} "
                "responses, P from 0 to 1 or null",
            )
    return [[int(i), int(j), probability] for i, j, probability in found]


def _is_place(value: Any, count: int) -> bool:
    return is_finite_number(value) and 0 <= value < count and value % 1 == 0


def _is_list(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count
