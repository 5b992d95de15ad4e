"""`raft eval-pool`: measure pass@k, maj@k and rm@k of a pool, and format them as Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from raft.bon.estimate import Estimate, estimate, expected_best_of_ns
from raft.stored.questions import RIGHT, Question, Questions
from raft.stored.rules import sweep
from rewards.evaluation.markdown import table, with_interval
from rewards.evaluation.pass_at_k import SILENT, majority_at_k, pass_at_k, weighted_majority_at_k
from rewards.evaluation.stats import RESAMPLES, interval95, resampled_ratios
from rollout.data.bad_rows import Reason
from rollout.errors import InputError
from rollout.progress import Progress
from rollout.seeds import derive_seed

__all__ = [
    "as_markdown",
    "measure",
]

# how many questions with an unreadable answer a report names
_MOST_NAMED = 3

# number of questions whose scores are padded to one array
_BLOCK = 4096

Metric = Callable[[Sequence[Question], Sequence[int]], np.ndarray]  # (P questions, K values of k)


class Measured(Estimate):
    """A metric at one k, and how many questions it is a mean over."""

    questions: int


# the metrics at one k; `rm` is there where scores are read, `weighted_maj` where votes are weighted
AtK = TypedDict(
    "AtK",
    {
        "k": int,
        "pass": Measured,
        "maj": Measured,
        "weighted_maj": NotRequired[Measured],
        "rm": NotRequired[Measured],
    },
)


class Facts(TypedDict):
    """Facts about the pool: `answer` and `scores` are names of columns, numbers are counts."""

    pool: str
    answer: str
    scores: str | None
    questions: int
    unanswered: int
    unreadable: int
    unreadable_first: list[str]
    skipped: int
    skipped_reasons: dict[str, Reason]
    responses: int
    right: int
    without_number: int
    without_score: int


class Report(Facts):
    """The content of pool.json; `draws` is None without a weighted majority."""

    weighted: str | None
    draws: int | None
    resamples: int
    seed: int
    results: list[AtK]


def measure(
    pool: Questions,
    *,
    ks: Sequence[int] | None = None,
    weighted: str | None = None,
    draws: int = 200,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Report:
    """Measure the mean of every metric over questions, for each k.

    A question with fewer responses than k (for rm@k: fewer with a score) is skipped at that k.

    Args:
        ks: default: powers of two below the most responses of a question, and that number.
        weighted: weigh votes by the "sum" of scores or of their "sigmoid"; None for no weighted
            majority.
        draws: number of random subsets for the weighted majority; all other metrics are exact.

    Raises:
        InputError: k above what any question has, or negative scores as weights.
    """
    ks = ks or sweep(pool.most)
    if max(ks) > pool.most:
        raise InputError(
            f"--k {max(ks)}",
            f"no question of {pool.name} has more than {pool.most} responses",
            "choose k up to that",
        )
    metrics = _metrics(pool, weighted, draws, seed)
    found = [metric(pool.questions, ks) for metric in metrics.values()]
    value_PT = np.concatenate(found, axis=1)
    means = _means(value_PT, resamples, seed)
    return {
        **_facts(pool),
        "weighted": weighted,
        "draws": draws if weighted else None,
        "resamples": resamples,
        "seed": seed,
        "results": [
            _at_k(k, dict(zip(metrics, means[at :: len(ks)], strict=True)))
            for at, k in enumerate(ks)
        ],
    }


def _at_k(k: int, means: dict[str, Measured]) -> AtK:
    found: AtK = {"k": k, "pass": means["pass"], "maj": means["maj"]}
    if "weighted_maj" in means:
        found["weighted_maj"] = means["weighted_maj"]
    if "rm" in means:
        found["rm"] = means["rm"]
    return found


def _metrics(pool: Questions, weighted: str | None, draws: int, seed: int) -> dict[str, Metric]:
    found = {"pass": _of_each("pass@k", _pass), "maj": _of_each("maj@k", _majority)}
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

        found["weighted_maj"] = _of_each("weighted maj@k", by_weight)
    found["rm"] = _by_reward
    return found


def _of_each(name: str, measure_one: Callable[[int, Question, int], float]) -> Metric:
    def of_all(questions: Sequence[Question], ks: Sequence[int]) -> np.ndarray:
        found_PK = np.full((len(questions), len(ks)), np.nan)
        with Progress(f"measuring {name}", len(questions)) as bar:
            for p, question in enumerate(questions):
                n = len(question.label_N)
                found_PK[p] = [measure_one(p, question, k) if k <= n else math.nan for k in ks]
                bar.advance()
        return found_PK

    return of_all


def _pass(p: int, question: Question, k: int) -> float:
    label_N = question.label_N
    return pass_at_k(len(label_N), int((label_N == RIGHT).sum()), k)


def _majority(p: int, question: Question, k: int) -> float:
    votes = Counter(question.label_N.tolist())
    right, silent = votes.pop(RIGHT, 0), votes.pop(SILENT, 0)
    return majority_at_k(right, list(votes.values()), silent, k)


def _by_reward(questions: Sequence[Question], ks: Sequence[int]) -> np.ndarray:
    """Return (P, K): the chance that the best of k responses by score is right."""
    found: list[np.ndarray] = []
    for start in range(0, len(questions), _BLOCK):
        block = questions[start : start + _BLOCK]
        # places beyond a question's responses are NaN: like missing scores they are not in its pool
        score_PN = np.full((len(block), max(len(one.label_N) for one in block)), np.nan)
        correct_PN = np.zeros(score_PN.shape)
        for p, question in enumerate(block):
            score_PN[p, : len(question.label_N)] = _score_N(question)
            correct_PN[p, : len(question.label_N)] = question.label_N == RIGHT
        found.append(expected_best_of_ns(score_PN, ks, correct_PN))
    return np.concatenate(found)


def _means(value_PT: np.ndarray, resamples: int, seed: int) -> list[Measured]:
    known_PT = np.isfinite(value_PT)
    top_PT = np.where(known_PT, value_PT, 0.0)
    draws_BT = resampled_ratios(
        top_PT, known_PT, np.arange(len(value_PT)), resamples=resamples, seed=seed
    )
    found: list[Measured] = []
    for t, count in enumerate(known_PT.sum(axis=0).tolist()):
        ends = interval95(draws_BT[:, t], count)
        mean = top_PT[:, t].sum() / count if count else math.nan
        found.append({**estimate(mean, ends.low, ends.high), "questions": count})
    return found


def _facts(pool: Questions) -> Facts:
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
        **pool.bad.summary(),
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


def as_markdown(report: Report) -> str:
    """Format facts about the pool, a table with a row per k, and how its numbers were estimated."""
    head, cells = ["k", "questions"], []
    for row in report["results"]:
        metrics = {
            "pass@k": row["pass"],
            "maj@k": row["maj"],
            "weighted maj@k": row.get("weighted_maj"),
            "rm@k": row.get("rm"),
        }
        known = {name: one for name, one in metrics.items() if one is not None}
        head = ["k", "questions", *known]
        counts = [str(row["k"]), f"{row['pass']['questions']:,}"]
        cells.append(counts + [_cell(one) for one in known.values()])
    made = table(head, cells)
    return f"# {Path(report['pool']).name}\n\n{_facts_line(report)}\n\n{made}\n\n{_notes(report)}\n"


def _facts_line(report: Report) -> str:
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


def _notes(report: Report) -> str:
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


def _cell(one: Measured) -> str:
    mean, low, high = (
        math.nan if e is None else 100 * e for e in (one["mean"], one["low"], one["high"])
    )
    return with_interval(mean, low, high, ".1f", " %")
