"""The metrics of a pool for every k, with intervals over questions.

The report of `raft eval-pool` as Markdown.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raft.best_of_n.estimate import expected_best_of_n
from raft.replay.questions import RIGHT, Question, Questions
from raft.replay.rules import sweep
from rewards.evaluation.markdown import table
from rewards.evaluation.pass_at_k import SILENT, majority_at_k, pass_at_k, weighted_majority_at_k
from rewards.evaluation.stats import RESAMPLES, interval95, resampled_ratios
from rollout.errors import InputError
from rollout.progress import Progress
from rollout.seeds import derive_seed

__all__ = [
    "as_markdown",
    "measure",
]

# questions with an unreadable answer that a report names
_MOST_NAMED = 3

Metric = Callable[[int, Question, int], float]


def measure(
    pool: Questions,
    *,
    ks: Sequence[int] | None = None,
    weighted: str | None = None,
    draws: int = 200,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """The report, ready for JSON: of each k every metric's mean over questions.

    Args:
        ks: by default powers of two up to the most responses of a question, and that.
        weighted: "sum" of scores or of their "sigmoid"s, for a weighted majority; None for none.
        draws: random subsets that the weighted majority is a mean over; all else is exact.

    A question with fewer responses than k (for rm@k: fewer with a score) is left out there.

    Raises:
        InputError: k above what any question has, or sums of negative scores.
    """
    ks = ks or sweep(pool.most)
    if max(ks) > pool.most:
        raise InputError(
            f"--k {max(ks)}",
            f"no question of {pool.name} has more than {pool.most} responses",
            "choose k up to that",
        )
    metrics = _metrics(pool, weighted, draws, seed)
    value_PT = np.full((len(pool.questions), len(metrics) * len(ks)), np.nan)
    with Progress("measuring", len(pool.questions)) as bar:
        for p, question in enumerate(pool.questions):
            value_PT[p] = [
                metric(p, question, k) if k <= len(question.label_N) else math.nan
                for metric in metrics.values()
                for k in ks
            ]
            bar.advance()
    means = _means(value_PT, resamples, seed)
    return {
        **_facts(pool),
        "weighted": weighted,
        "draws": draws if weighted else None,
        "resamples": resamples,
        "seed": seed,
        "results": [
            {"k": k, **{name: means[m * len(ks) + at] for m, name in enumerate(metrics)}}
            for at, k in enumerate(ks)
        ],
    }


def _metrics(pool: Questions, weighted: str | None, draws: int, seed: int) -> dict[str, Metric]:
    found: dict[str, Metric] = {"pass": _pass, "maj": _majority}
    if pool.scores is None:
        return found
    if weighted is not None:
        if weighted == "sum" and any(_negative(one) for one in pool.questions):
            raise InputError(
                "--weighted sum",
                f"{pool.scores!r} has negative scores, by which more votes would count less",
                "use --weighted sigmoid",
            )
        from scipy.special import expit

        squash = weighted == "sigmoid"

        def by_weight(p: int, question: Question, k: int) -> float:
            weight_N = _score_N(question)
            weight_N = expit(weight_N) if squash else weight_N
            drawn = derive_seed(seed, "majority", p)
            return weighted_majority_at_k(
                question.label_N, weight_N, k, right=RIGHT, draws=draws, seed=drawn
            )

        found["weighted_maj"] = by_weight
    found["rm"] = _by_reward
    return found


def _pass(p: int, question: Question, k: int) -> float:
    label_N = question.label_N
    return pass_at_k(len(label_N), int((label_N == RIGHT).sum()), k)


def _majority(p: int, question: Question, k: int) -> float:
    votes = Counter(question.label_N.tolist())
    right, silent = votes.pop(RIGHT, 0), votes.pop(SILENT, 0)
    return majority_at_k(right, list(votes.values()), silent, k)


def _by_reward(p: int, question: Question, k: int) -> float:
    """Expected correctness of the best of k by score."""
    correct_N = (question.label_N == RIGHT).astype(np.float64)
    return float(expected_best_of_n(_score_N(question)[None], k, correct_N[None])[0])


def _means(value_PT: np.ndarray, resamples: int, seed: int) -> list[dict[str, Any]]:
    known_PT = np.isfinite(value_PT)
    top_PT = np.where(known_PT, value_PT, 0.0)
    draws_BT = resampled_ratios(
        top_PT, known_PT, np.arange(len(value_PT)), resamples=resamples, seed=seed
    )
    found = []
    for t, count in enumerate(known_PT.sum(axis=0).tolist()):
        ends = interval95(draws_BT[:, t], count)
        mean = top_PT[:, t].sum() / count if count else math.nan
        found.append(
            {
                "mean": _known(mean),
                "low": _known(ends.low),
                "high": _known(ends.high),
                "questions": count,
            }
        )
    return found


def _facts(pool: Questions) -> dict[str, Any]:
    label_M = np.concatenate([one.label_N for one in pool.questions])
    scores = [_score_N(one) for one in pool.questions] if pool.scores else []
    return {
        "pool": pool.name,
        "answer": pool.column,
        "scores": pool.scores,
        "questions": len(pool.questions),
        "unanswered": pool.unanswered,
        "unreadable": len(pool.unreadable),
        "unreadable_first": pool.unreadable[:_MOST_NAMED],
        "responses": len(label_M),
        "right": int((label_M == RIGHT).sum()),
        "without_number": int((label_M == SILENT).sum()),
        "without_score": int(sum((~np.isfinite(score_N)).sum() for score_N in scores)),
    }


def _score_N(question: Question) -> np.ndarray:
    assert question.score_N is not None, "metrics by score are made where there are scores"
    return question.score_N


def _negative(question: Question) -> bool:
    return bool((_score_N(question) < 0).any())


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


_NAMES = {"pass": "pass@k", "maj": "maj@k", "weighted_maj": "weighted maj@k", "rm": "rm@k"}


def as_markdown(report: Mapping[str, Any]) -> str:
    """What the pool holds, a row per k, and how it was estimated."""
    rows = report["results"]
    metrics = [name for name in _NAMES if name in rows[0]]
    cells = [
        [str(row["k"]), f"{row['pass']['questions']:,}", *(_cell(row[name]) for name in metrics)]
        for row in rows
    ]
    made = table(["k", "questions", *(_NAMES[name] for name in metrics)], cells)
    return f"# {Path(report['pool']).name}\n\n{_facts_line(report)}\n\n{made}\n\n{_notes(report)}\n"


def _facts_line(report: Mapping[str, Any]) -> str:
    share = report["right"] / report["responses"]
    found = (
        f"{report['questions']:,} questions, {report['responses']:,} responses, {share:.1%} right; "
        f"{report['without_number']:,} give no number."
    )
    if report["unanswered"]:
        found += f" {report['unanswered']:,} questions without an answer are left out."
    if report["unreadable"]:
        named = "; ".join(report["unreadable_first"])
        found += (
            f" {report['unreadable']:,} questions whose answer is no number are left out ({named})."
        )
    if report["without_score"]:
        found += f" {report['without_score']:,} responses have no score."
    return found


def _notes(report: Mapping[str, Any]) -> str:
    lines = [
        f"Means over questions with 95 % intervals, from {report['resamples']:,} resamples of "
        "questions; exact expectations over all subsets of k responses.",
        "pass@k: one of k is right. maj@k: the right number has most votes (a tie is shared).",
    ]
    if report["weighted"]:
        what = "scores" if report["weighted"] == "sum" else "sigmoids of scores"
        lines.append(
            f"weighted maj@k: votes count their {what}; mean over {report['draws']} random subsets "
            f"(seed {report['seed']})."
        )
    if report["scores"]:
        lines.append(f"rm@k: the response with the highest of {report['scores']} is right.")
    short = {
        row["k"]: report["questions"] - row["pass"]["questions"]
        for row in report["results"]
        if row["pass"]["questions"] < report["questions"]
    }
    if short:
        named = ", ".join(f"k = {k}: {count:,}" for k, count in short.items())
        lines.append(f"Questions left out for having fewer than k responses: {named}.")
    return "\n".join(lines)


def _cell(one: Mapping[str, Any]) -> str:
    if one["mean"] is None:
        return "–"
    mean = f"{100 * one['mean']:.1f} %"
    return (
        mean if one["low"] is None else f"{mean} [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"
    )
