"""Preference pairs: accuracy, margin, and how much of the verdict is length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rewards.doctor.finding import Finding, note, ok, wrong
from rewards.doctor.model_under_test import ModelUnderTest
from rewards.doctor.samples import OBVIOUS, talk
from rewards.evaluation.stats import pearson, spearman, wilson95
from rollout.types import Message

__all__ = ["Pair", "check_obvious", "check_pairs", "judged_findings", "obvious_pairs"]

_CHUNK = 64
_SIDES = ("chosen", "rejected")
_STRONG = 0.5
_ENOUGH = 10  # a correlation of fewer points is noise

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two whole conversations, each ending with the assistant's response."""

    chosen: Sequence[Message]
    rejected: Sequence[Message]


def obvious_pairs() -> list[Pair]:
    """The built-in ones."""
    return [Pair(talk(prompt, good), talk(prompt, bad)) for prompt, good, bad in OBVIOUS]


def check_obvious(subject: ModelUnderTest) -> Iterator[Finding]:
    """Never wrong: a model may be made for something else than these ten pairs."""
    chosen_N, rejected_N, _, _ = _scores(subject, obvious_pairs(), lambda count: None)
    yield obvious_finding(chosen_N - rejected_N)


def obvious_finding(margins_N: np.ndarray) -> Finding:
    known_N = margins_N[np.isfinite(margins_N)]
    wins = int((known_N > 0).sum())
    detail = f"the better answer wins in {wins} of {len(known_N)} built-in obvious pairs"
    fix = "10 pairs are few: give --data" if len(known_N) and wins <= 0.7 * len(known_N) else ""
    return note("obvious pairs", detail, fix, wins=wins, pairs=len(known_N))


def check_pairs(
    subject: ModelUnderTest, pairs: Sequence[Pair], advance: Advance
) -> Iterator[Finding]:
    """All about N pairs of the user's."""
    chosen_N, rejected_N, cut, reasons = _scores(subject, pairs, advance)
    lengths_N2 = np.array([_lengths(subject, pair) for pair in pairs], dtype=np.float64)
    yield from judged_findings(chosen_N - rejected_N, lengths_N2[:, 0] - lengths_N2[:, 1])
    yield from _score_length(
        np.concatenate([chosen_N, rejected_N]), np.concatenate([lengths_N2[:, 0], lengths_N2[:, 1]])
    )
    if cut:
        limit = subject.encoder.max_length
        yield note(
            "truncated",
            f"{cut} of {2 * len(pairs)} conversations are longer than max_length={limit}",
            "a larger --max-length, where the model can take it",
            truncated=cut,
        )
    if reasons:
        said = f"{len(reasons)} of {2 * len(pairs)} conversations, the first"
        yield note("unread", f"{said}: {reasons[0]}", unread=len(reasons))


def judged_findings(margins_N: np.ndarray, longer_N: np.ndarray) -> Iterator[Finding]:
    """From margins, positive where the chosen wins and NaN where missing, and its extra length."""
    known_N = np.isfinite(margins_N)
    missing = int((~known_N).sum())
    if missing:
        yield note(
            "missing", f"{missing} of {len(margins_N)} pairs have no verdict", missing=missing
        )
    if not known_N.any():
        yield wrong("accuracy", "no pair could be judged", "see the other lines")
        return
    yield _accuracy(margins_N[known_N])
    yield _margin(margins_N[known_N])
    yield _margin_length(margins_N[known_N], longer_N[known_N])


def _accuracy(margins: np.ndarray) -> Finding:
    wins, losses = int((margins > 0).sum()), int((margins < 0).sum())
    ties = len(margins) - wins - losses
    interval = wilson95(wins, len(margins))
    low, high = interval.low, interval.high
    rate = wins / len(margins)
    detail = (
        f"{rate:.1%} of {len(margins)} pairs, 95 % interval {low:.1%} to {high:.1%}; "
        f"{ties} tie{'' if ties == 1 else 's'}, counted as lost"
    )
    values = {"accuracy": rate, "low": low, "high": high, "ties": ties, "pairs": len(margins)}
    if wins + losses and wilson95(wins, wins + losses).high < 0.5:
        fix = "are chosen and rejected swapped? else this model is not for these data"
        return wrong("accuracy", f"{detail}: significantly below one half", fix, **values)
    if high < 0.5:
        return wrong("accuracy", f"{detail}: mostly ties", "look at the scores above", **values)
    if low <= 0.5:
        return note(
            "accuracy", f"{detail}: not told apart from guessing", "give more pairs", **values
        )
    return ok("accuracy", detail, **values)


def _margin(margins: np.ndarray) -> Finding:
    mean = float(margins.mean())
    detail = f"{mean:+.3g} on average, chosen over rejected; median {np.median(margins):+.3g}"
    if len(margins) < 2:
        return ok("margin", detail, mean=mean)
    half = 1.96 * float(margins.std(ddof=1)) / math.sqrt(len(margins))
    return ok("margin", detail.replace(" on", f" ± {half:.2g} on", 1), mean=mean, ci95=half)


def _margin_length(margins: np.ndarray, longer: np.ndarray) -> Finding:
    """Within a pair the prompt is the same, so this is the cleaner of the two correlations."""
    told = (margins != 0) & (longer != 0)
    if told.sum() < 2:
        return note("length", "too few pairs of different length to say")
    wins = float(np.mean((margins[told] > 0) == (longer[told] > 0)))
    chosen = float(np.mean(longer[told] > 0))
    rank, line = spearman(margins, longer), pearson(margins, longer)
    detail = (
        f"the longer answer wins {wins:.0%} of pairs, and is the chosen one in {chosen:.0%}; "
        f"margin with difference in length: {_said(rank, line)}"
    )
    values = {"longer_wins": wins, "longer_chosen": chosen, "spearman": rank, "pearson": line}
    return _by_strength("length", detail, rank, len(margins), values)


def _score_length(scores_M: np.ndarray, lengths_M: np.ndarray) -> Iterator[Finding]:
    known_M = np.isfinite(scores_M)
    scores, lengths = scores_M[known_M].astype(np.float64), lengths_M[known_M]
    if len(scores) < 3:
        return
    rank, line = spearman(scores, lengths), pearson(scores, lengths)
    detail = f"score with length of the response: {_said(rank, line)}"
    values = {"spearman": rank, "pearson": line}
    yield _by_strength("length score", detail, rank, len(scores), values)


def _said(rank: float, line: float) -> str:
    if math.isnan(rank):
        return "no correlation, one of them does not vary"
    return f"Spearman {rank:+.2f}, Pearson {line:+.2f}"


def _by_strength(
    what: str, detail: str, rank: float, count: int, values: dict[str, float]
) -> Finding:
    if abs(rank) > _STRONG and count >= _ENOUGH:
        fix = "a policy will learn the length: consider a length penalty or debiasing"
        return note(what, f"{detail}: strong", fix, **values)
    return ok(what, detail, **values)


def _scores(
    subject: ModelUnderTest, pairs: Sequence[Pair], advance: Advance
) -> tuple[np.ndarray, np.ndarray, int, list[str]]:
    """Scores of the chosen and of the rejected, (N,) each; conversations cut; why some are NaN."""
    talks = [talk for pair in pairs for talk in (pair.chosen, pair.rejected)]
    scores_M, cut, reasons = np.full(len(talks), np.nan), 0, []
    for start in range(0, len(talks), 2 * _CHUNK):
        chunk = talks[start : start + 2 * _CHUNK]
        names = [f"pair {(start + n) // 2 + 1}, {_SIDES[n % 2]}" for n in range(len(chunk))]
        readable = subject.readable(chunk, names)
        if readable.kept:
            found = subject.score([chunk[index] for index in readable.kept])
            scores_M[[start + index for index in readable.kept]] = found
        cut += readable.cut
        reasons += readable.reasons
        advance(len(chunk) // 2)
    return scores_M[::2], scores_M[1::2], cut, reasons


def _lengths(subject: ModelUnderTest, pair: Pair) -> tuple[int, int]:
    texts = [pair.chosen[-1]["content"], pair.rejected[-1]["content"]]
    rows = subject.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return len(rows[0]), len(rows[1])
