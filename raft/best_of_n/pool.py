"""A pool of scored responses, read once: its scores as arrays, its best responses as rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raft.best_of_n.estimate import Floats
from raft.selection import best_of_k
from rollout.errors import InputError

__all__ = ["Columns", "Pool", "read_pool"]

# columns of one entry per response, and what the chosen one's is called
_BESIDE = {"finish_reasons": "finish_reason", "seeds": "seed", "token_ids": "token_ids"}
_REST = ("policy_version", "prompt_token_ids")
# (where the row stands, its columns)
Rows = Iterable[tuple[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns select (`by`) and are measured beside it (`gold`, None without)."""

    by: str = "scores"
    gold: str | None = None


@dataclass(slots=True)
class Pool:
    """The numbers of P prompts with up to N responses; NaN is a missing score, or no response."""

    columns: Columns
    responses_P: list[int] = field(default_factory=list)
    score_rows: list[Floats] = field(default_factory=list)
    gold_rows: list[Floats] = field(default_factory=list)

    @property
    def largest(self) -> int:
        return max(self.responses_P, default=0)

    @property
    def scores_PN(self) -> Floats:
        return _padded(self.score_rows, self.largest)

    @property
    def gold_PN(self) -> Floats | None:
        return _padded(self.gold_rows, self.largest) if self.columns.gold else None

    def missing(self, n: int) -> dict[str, int]:
        """What could not take part, counted."""
        known_P = np.isfinite(self.scores_PN).sum(axis=1)
        found = {
            "scores": sum(self.responses_P) - int(known_P.sum()),
            "prompts_without_score": int((known_P == 0).sum()),
            f"prompts_with_fewer_than_{n}": int((known_P < n).sum()),
        }
        if (gold_PN := self.gold_PN) is not None:
            found["gold_scores"] = sum(self.responses_P) - int(np.isfinite(gold_PN).sum())
        return found


def read_pool(
    rows: Rows, columns: Columns, n: int | None, keep: Callable[[dict[str, Any]], Any]
) -> Pool:
    """Read every row once; `keep` is given the best of each prompt's first `n` responses, by score.

    Equal scores: the one drawn first. A prompt without any score has no best response.

    Raises:
        InputError: a row without these columns, or with other than a number or null for each of its
            responses; `n` is more than any prompt has; there are no scores at all.
    """
    pool = Pool(columns)
    for where, row in rows:
        texts = row["responses"]
        scores_N = _column(row, columns.by, len(texts), where)
        pool.responses_P.append(len(texts))
        pool.score_rows.append(scores_N)
        if columns.gold is not None:
            pool.gold_rows.append(_column(row, columns.gold, len(texts), where))
        if len(texts) and (best := int(best_of_k(scores_N[None, :n])[0])) >= 0:
            keep(_best_row(row, best, columns, n))
    if n is not None and n > pool.largest:
        raise InputError(
            f"--num-responses {n}",
            f"the most responses that a prompt has are {pool.largest}",
            "lower it, or draw more",
        )
    if not any(np.isfinite(scores_N).any() for scores_N in pool.score_rows):
        raise InputError(columns.by, "not a single score is a number", "nothing can be selected")
    return pool


def _column(row: dict[str, Any], name: str, count: int, where: str) -> Floats:
    values = row.get(name)
    if values is None:
        held = ", ".join(key for key in row if key.endswith("scores")) or "no scores"
        raise InputError(
            where,
            f"no column {name!r} (there: {held})",
            "`raft score --reward M` adds scores, --score-column and --gold-column name others",
        )
    if not isinstance(values, list) or len(values) != count:
        raise InputError(where, f"{name!r} does not fit {count} responses", "score the file again")
    for value in values:
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(where, f"{name!r} holds {value!r}", "a score is a number or null")
    return np.array(values, dtype=np.float64)  # None becomes NaN


def _best_row(row: dict[str, Any], best: int, columns: Columns, n: int | None) -> dict[str, Any]:
    """The best response with all its scores, and which sample it is; the prompt's own columns."""
    texts = row["responses"]
    own = {
        key: value
        for key, value in row.items()
        if not (key in _BESIDE or key in _REST or key in ("responses", columns.by, columns.gold))
        and "scores" not in key
    }
    scores = {
        key.removesuffix("s"): _number(values[best])
        for key, values in row.items()
        if (key.endswith("scores") or key in (columns.by, columns.gold))
        and isinstance(values, list)
        and len(values) == len(texts)
    }
    # the score that selects goes by its name in a run's selected.jsonl
    scores = {"score": scores[columns.by.removesuffix("s")], **scores}
    beside = {
        name: row[key][best]
        for key, name in _BESIDE.items()
        if isinstance(row.get(key), list) and len(row[key]) == len(texts)
    }
    rest = {key: row[key] for key in _REST if key in row}
    of = len(texts[:n])
    return {**own, "response": texts[best], "sample": best, "of": of, **scores, **beside, **rest}


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _padded(rows: list[Floats], width: int) -> Floats:
    found_PN = np.full((len(rows), width), np.nan)
    for number, row_N in enumerate(rows):
        found_PN[number, : len(row_N)] = row_N
    return found_PN
