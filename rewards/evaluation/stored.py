"""Read scores that rows hold already: ours, those of `raft score`, and the benchmarks' own files'.

| columns | of |
|---|---|
| `scores`, `NAME_scores`, or `NAME` itself | all responses, in the row's order |
| `chosen_score`, `rejected_score`, `NAME_…` before both | the two sides: numbers, or lists |
| `score_chosen`, `score_rejected` | the same, as RewardBench and RM-Bench write them |
| `judgments` | JudgeBench: `decision` and `scores` of (A, B) and of (B, A) |
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rewards.evaluation.dataset import EvalRow, EvalSet
from rewards.evaluation.forms import gold_column
from rewards.evaluation.scores import Scored
from rewards.evaluation.small_benchmarks import LABELS, vote
from rollout.data.bad_rows import SKIPPED
from rollout.data.forms import known_columns
from rollout.data.jsonl import encode_rows, is_list, is_object, json_columns
from rollout.data.samples import check_scores
from rollout.errors import InputError
from rollout.storage.files import whole_file

__all__ = ["by_stored", "write_scores"]

_JUDGMENTS = "judgments"


def by_stored(data: EvalSet, name: str | None = None, label: str = "stored") -> Scored:
    """Return the scores under `name`, or under the plain column names; null is a missing score.

    Raises InputError for a row without them, or with something else in their place.
    """
    settings = {"scores": name}
    if data.form == "judgebench" and name is None and _has_judgments(data):
        votes = [_judged(row) for row in data.rows()]
        margins_M = np.array([margin for margin, _ in votes])
        return Scored(label, settings, margins_M, log_odds=all(scored for _, scored in votes))
    scores = [score for row in data.rows() for score in _stored(row, name, data)]
    scores_R = np.array(scores, dtype=np.float64)
    return Scored(label, settings, data.margins(scores_R), scores_R)


def write_scores(data: EvalSet, scored: Sequence[Scored], path: Path) -> None:
    """Write every row with `NAME_scores`, K numbers or null, of each reward that scored responses.

    A row that was skipped has null and the reason in their place.
    """
    new = [one for one in scored if one.seconds is not None]  # stored scores are in the rows
    rewards = {_column(one): data.per_row(one.scores_R) for one in new if one.scores_R is not None}
    with whole_file(path) as file:
        number = 0
        for row, raw in data.all_rows():
            held = raw.value if raw.given is None else raw.given
            columns = json_columns(held, raw.where) if is_object(held) else {}
            if row is None:
                added = {**dict.fromkeys(rewards), SKIPPED: data.bad.reasons[raw.number]}
            else:
                added = {name: _or_null(values[number]) for name, values in rewards.items()}
                number += 1
            file.write(encode_rows([{**columns, **added}]).decode())


def _column(one: Scored) -> str:
    return f"{re.sub(r'[^0-9A-Za-z.-]+', '_', one.label).strip('_')}_scores"


def _or_null(scores_K: np.ndarray) -> list[float | None]:
    return [score if np.isfinite(score) else None for score in scores_K.tolist()]


def _has_judgments(data: EvalSet) -> bool:
    first = next(data.rows())
    return _JUDGMENTS in first.columns and _columns(first.columns, None) is None


def _stored(row: EvalRow, name: str | None, data: EvalSet) -> list[float]:
    """Return the (K,) scores in the row's order. Raises InputError where the row has none."""
    found = _columns(row.columns, name)
    if found is None:
        raise InputError(
            row.where,
            f"no stored scores under {_tried(name)}",
            f"{_others(row.columns)}",
        )
    listwise = data.form == "listwise"
    known = known_columns(row.columns, row.where) if listwise else row.columns
    if listwise and found == (gold_column(known, data.gold),):
        raise InputError(
            row.where,
            f"{found[0]!r} would be compared with itself",
            "name the known order with --gold-column, or other scores with --score-column NAME",
        )
    if len(found) == 1:
        return _numbers(row.columns[found[0]], len(row.gold), row.where, found[0])
    return _two_sides(row, found)


def _two_sides(row: EvalRow, names: tuple[str, ...]) -> list[float]:
    right = [place for place, value in enumerate(row.gold) if value > 0]
    wrong = [place for place, value in enumerate(row.gold) if not value > 0]
    scores = [np.nan] * len(row.gold)
    for places, name in zip((right, wrong), names, strict=True):
        value = row.columns[name]
        values = value if isinstance(value, list) else [value]
        numbers = _numbers(values, len(places), row.where, name)
        for place, number in zip(places, numbers, strict=True):
            scores[place] = number
    return scores


def _columns(columns: dict[str, object], name: str | None) -> tuple[str, ...] | None:
    """Return the one or two columns that hold the scores; None where the row has none."""
    return next((one for one in _candidates(name) if columns.keys() >= set(one)), None)


def _candidates(name: str | None) -> Iterator[tuple[str, ...]]:
    prefix = f"{name}_" if name else ""
    yield f"{prefix}chosen_score", f"{prefix}rejected_score"
    if name is None:
        yield "score_chosen", "score_rejected"
    yield (f"{prefix}scores",)
    if name is not None:
        yield (name,)


def _tried(name: str | None) -> str:
    names = [" and ".join(one) for one in _candidates(name)]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _others(columns: dict[str, object]) -> str:
    """Return the fix for an error: the columns that the user may have meant, else another way."""
    ends = ("_scores", "_score")
    near = [key for key in columns if key.endswith(ends) or key in ("scores", "score")]
    if near:
        return f"it has {', '.join(near)}: name what stands before with --score-column NAME"
    return "add them with raft score, or name a model with --reward"


def _numbers(value: object, count: int, where: str, name: str) -> list[float]:
    """Return `count` scores, a missing one as NaN. Raises InputError for anything else."""
    scores = check_scores(value, count, f"{where}: {name!r}")
    return [np.nan if one is None or not np.isfinite(one) else float(one) for one in scores]


def _judged(row: EvalRow) -> tuple[float, bool]:
    """Return (margin of the better response, whether it comes from scores) of a row of `judgments`.

    Raises InputError where the row has none.
    """
    judgments = row.columns.get(_JUDGMENTS)
    if not is_list(judgments) or not judgments:
        raise InputError(row.where, f"no {_JUDGMENTS!r} to read decisions from", "fix the row")
    seen = [one if is_object(one) else {} for one in judgments]
    better = 0 if row.gold[0] > row.gold[1] else 1
    decisions = [one.get("decision") for one in seen]
    won = vote([one if isinstance(one, str) else None for one in decisions], LABELS[better])
    pairs = [one.get("scores") for one in seen]
    if any(pair is None for pair in pairs):
        return won, False
    leads = []
    for number, pair in enumerate(pairs):
        both = _numbers(pair, 2, row.where, "scores")
        at = better ^ (number % 2)  # the second judgement was of (B, A)
        leads.append(both[at] - both[1 - at])
    lead = float(np.mean(leads))
    # the benchmark counts decisions: scores only say how clear one is, where both agree
    return (lead if np.sign(lead) == np.sign(won) else won), True
