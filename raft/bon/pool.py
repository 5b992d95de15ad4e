"""A pool of scored responses, read once: its scores as arrays, its best responses as rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NotRequired, TypedDict

import numpy as np

from raft.bon.estimate import Floats, Point, estimate
from raft.selection.rules import best_of_k, padded
from rewards.evaluation.stats import mean_ci95
from rollout.data.forms import column
from rollout.data.jsonl import is_finite_number, is_list
from rollout.data.rows_to_score import ScoreRow
from rollout.data.samples import check_scores
from rollout.errors import InputError

__all__ = ["Columns", "How", "Pool", "Rejected", "Waves", "check_columns", "in_words", "read_pool"]

# columns of one entry per response -> the column of the selected response's entry
_BESIDE = {"finish_reasons": "finish_reason", "seeds": "seed", "token_ids": "token_ids",
           "sample_numbers": "sample"}  # fmt: skip
_REST = ("policy_version", "prompt_token_ids")


@dataclass(frozen=True, slots=True)
class Columns:
    """The score column that selects (`by`), and the one measured beside it (`gold`, or None)."""

    by: str = "scores"
    gold: str | None = None


class Rejected(TypedDict):
    """How well early rejection worked: of `begun` responses the `keep` best by their beginnings.

    A beginning is a response's first `tokens` tokens. `tokens_saved` is the share of tokens that
    were not drawn, `foresight` the correlation within prompts of the scores of responses and of
    their beginnings; None where unknown.
    """

    begun: int
    keep: int
    tokens: int
    tokens_saved: float | None
    foresight: float | None


@dataclass(frozen=True, slots=True)
class How:
    """How a pool was drawn: `first` responses in the first of several waves, or some `rejected`.

    Both are None for a pool that was drawn at once.
    """

    first: int | None = None
    rejected: Rejected | None = None

    def settings(self) -> dict[str, object]:
        early = {} if self.rejected is None else {"early_rejection": self.rejected}
        return {"first": self.first, **early}


class Waves(TypedDict):
    """A pool drawn in waves: mean number of responses to a prompt, mean scores of the best one."""

    responses: float
    proxy: Point
    gold: NotRequired[Point]


@dataclass(slots=True)
class Pool:
    """Counts and scores of P prompts with up to N responses; NaN is no score, or no response."""

    columns: Columns
    responses_P: list[int] = field(default_factory=list)
    score_rows: list[Floats] = field(default_factory=list)
    gold_rows: list[Floats] = field(default_factory=list)

    @property
    def largest(self) -> int:
        return max(self.responses_P, default=0)

    @property
    def scores_PN(self) -> Floats:
        return padded(self.score_rows)

    @property
    def gold_PN(self) -> Floats | None:
        return padded(self.gold_rows) if self.columns.gold else None

    def arrays(self, first: int | None) -> tuple[Floats, Floats | None]:
        """Return (P, first) scores of each prompt's first responses, and gold scores or None.

        With `first` None all responses are included. The curve of a pool that was drawn in waves is
        of the first wave: which prompts have further responses depends on its scores.
        """
        gold_PN = self.gold_PN
        return self.scores_PN[:, :first], None if gold_PN is None else gold_PN[:, :first]

    def in_waves(self) -> Waves:
        """Return the mean scores of the best of all responses to a prompt, however many it has."""
        scores_PN, gold_PN = self.scores_PN, self.gold_PN
        best_P = best_of_k(scores_PN)
        at = np.flatnonzero(best_P >= 0), best_P[best_P >= 0]
        found: Waves = {
            "responses": float(np.mean(self.responses_P)),
            "proxy": _point(scores_PN[at]),
        }
        return found if gold_PN is None else {**found, "gold": _point(gold_PN[at])}

    def missing(self, n: int) -> dict[str, int]:
        """Count missing scores, prompts without any score, and prompts with fewer than n scores."""
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
    rows: Iterable[ScoreRow],
    columns: Columns,
    n: int | None,
    keep: Callable[[dict[str, object]], None],
) -> Pool:
    """Read every row once, and call `keep` with the best of each prompt's first `n` responses.

    Among equal scores the response drawn first is the best; a prompt without any score has none.

    Raises:
        InputError: a row without these columns, or with other than a number or null for each of its
            responses; `n` is more than any prompt has; there are no scores at all.
    """
    pool = Pool(columns)
    for row in rows:
        scores_N = _scores(row, columns.by)
        pool.responses_P.append(row.conversations)
        pool.score_rows.append(scores_N)
        if columns.gold is not None:
            pool.gold_rows.append(_scores(row, columns.gold))
        if row.conversations and (best := int(best_of_k(scores_N[None, :n])[0])) >= 0:
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


def in_words(rejected: Rejected) -> str:
    """Return a line about responses that were rejected early, for the terminal."""
    told = {"foresight": rejected["foresight"], "tokens saved": rejected["tokens_saved"]}
    known = [f"{name} {one:.2f}" for name, one in told.items() if one is not None]
    which = f"best {rejected['keep']} of {rejected['begun']} by their first {rejected['tokens']}"
    return "; ".join([f"all numbers are of the {which} tokens", *known])


def check_columns(row: ScoreRow, columns: Columns) -> None:
    """Check that a row has a number or null in the score columns for each of its responses.

    Raises InputError where it has not; a row that could not be read is not checked.
    """
    if row.bad is None:
        for name in filter(None, (columns.by, columns.gold)):
            _scores(row, name)


def _scores(row: ScoreRow, name: str) -> Floats:
    """Return the (N,) scores in a column of a row, NaN where one is missing.

    Raises InputError for a row without them, or whose responses are to different prompts.
    """
    if len(row.groups) > 1:
        raise InputError(row.where, "its responses answer different prompts", "give them one")
    values = row.columns.get(name)
    if values is None and name.partition(".")[0] in row.columns:
        values = column(row.columns, name, row.where)
    if values is None:
        held = ", ".join(key for key in row.columns if key.endswith("scores")) or "no scores"
        raise InputError(
            row.where,
            f"no column {name!r} (there: {held})",
            "`raft score --reward M` adds scores, --score-column and --gold-column name others",
        )
    scores = check_scores(values, row.conversations, f"{row.where}: {name!r}")
    return np.array(scores, dtype=np.float64)  # None becomes NaN


def _best_row(row: ScoreRow, best: int, columns: Columns, n: int | None) -> dict[str, object]:
    """Return the row of STEM.best.jsonl for the best response of a prompt.

    It has all scores of that response, its number, and the columns that describe the prompt.
    """
    (group,) = row.groups
    count = len(group.completions)
    lists = {
        name: values
        for name, values in row.columns.items()
        if is_list(values) and len(values) == count
    }
    named = (columns.by, columns.gold)
    own = {
        name: value
        for name, value in {"id": row.id, **row.columns}.items()
        if name not in ("responses", *_BESIDE, *_REST, *named) and "scores" not in name
    }
    scores = {
        name.removesuffix("s"): _number(values[best])
        for name, values in lists.items()
        if name.endswith("scores") or name in named
    }
    return {
        **own,
        "response": group.completions[best].text,
        "sample": best,
        "of": min(count, n or count),
        # the score that selects goes by its name in a run's selected.jsonl
        "score": scores[columns.by.removesuffix("s")],
        **scores,
        **{kept: lists[name][best] for name, kept in _BESIDE.items() if name in lists},
        **{name: row.columns[name] for name in _REST if name in row.columns},
    }


def _number(value: object) -> int | float | None:
    if isinstance(value, bool):
        return int(value)
    return value if is_finite_number(value) else None


def _point(values_P: Floats) -> Point:
    mean, half = mean_ci95(values_P)
    return {**estimate(mean, mean - half, mean + half), "prompts": int(np.isfinite(values_P).sum())}
