"""Measure a model on preference pairs: accuracy, margin, and how much of the verdict is length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from rewards.doctor.finding import Finding, note, ok, wrong
from rewards.doctor.model_under_test import ModelUnderTest
from rewards.doctor.samples import OBVIOUS, TWO_TURNS
from rewards.evaluation.accuracy import accuracy, length_bias
from rewards.evaluation.dataset import EvalRow, RowParser
from rewards.evaluation.stats import mean_ci95, pearson, spearman
from rollout.data.bad_rows import SkippedRow
from rollout.data.rows import read_rows
from rollout.data.sources import find_source
from rollout.errors import InputError
from rollout.types import Completion, Group, Prompt

__all__ = [
    "Advance",
    "as_pair",
    "check_obvious",
    "check_pairs",
    "judged_findings",
    "obvious_finding",
    "obvious_pairs",
    "prompt_numbers",
    "read_pairs",
]

_CHUNK = 64
_SIDES = ("chosen", "rejected")
_STRONG = 0.5
_ENOUGH = 10  # a correlation of fewer points is noise
_SURE = 0.01  # largest p-value at which two ways to read the pairs count as different

Advance = Callable[[int], None]


def read_pairs(
    path: str, split: str = "train", columns: Mapping[str, str] | None = None
) -> list[EvalRow]:
    """Read pairs of every form that `raft eval-reward` reads, the better response first.

    Rows whose responses are all equally good are no pairs, and ignored. Raises InputError naming a
    row of more than two responses, and where no pair is left.
    """
    source = find_source(path, split=split, columns=columns)
    parser = RowParser(source.stem, "pairs")
    rows = [
        parser.parse(row)
        for row in read_rows(source, keep_errors=True)
        if not isinstance(row.value, SkippedRow)
    ]
    pairs = [_better_first(row) for row in rows if row.pairs]
    if not pairs:
        raise InputError(path, "holds no rows", "give at least one preference pair")
    return pairs


def _better_first(row: EvalRow) -> EvalRow:
    if len(row.gold) != 2:
        problem = f"has {len(row.gold)} responses, and a pair has two"
        raise InputError(row.where, problem, "measure lists with raft eval-reward")
    if row.gold[0] > row.gold[1]:
        return row
    (group,) = row.groups  # responses to one prompt; two whole conversations are better first
    swapped = replace(group, completions=group.completions[::-1])
    return replace(row, groups=(swapped,), gold=row.gold[::-1])


def as_pair(prompt: str, chosen: str, rejected: str) -> EvalRow:
    """Make a pair of texts that come from no file."""
    group = Group(Prompt(prompt, prompt), (Completion(chosen), Completion(rejected)), 0)
    return EvalRow("built-in", prompt, {}, (group,), (1.0, 0.0), "")


def obvious_pairs() -> list[EvalRow]:
    """Return the ten built-in pairs, whose better response is obvious."""
    return [as_pair(*texts) for texts in OBVIOUS]


def prompt_numbers(pairs: Sequence[EvalRow]) -> np.ndarray:
    """Return a number for the prompt of each pair (N,), the same for pairs of one prompt."""
    return np.unique([pair.prompt_digest.hex() for pair in pairs], return_inverse=True)[1]


def check_obvious(model: ModelUnderTest) -> Iterator[Finding]:
    """Report how often the better response of the ten built-in pairs wins.

    The level is never "wrong": a model may be made for something else than these pairs.
    """
    chosen_N, rejected_N, _, _ = _scores(model, obvious_pairs(), lambda count: None)
    yield obvious_finding(chosen_N - rejected_N)


def obvious_finding(margins_N: np.ndarray) -> Finding:
    """Return how often the better response of N built-in pairs wins; a NaN margin is missing."""
    known_N = margins_N[np.isfinite(margins_N)]
    wins = int((known_N > 0).sum())
    detail = f"the better answer wins in {wins} of {len(known_N)} built-in obvious pairs"
    fix = "10 pairs are few: give --data" if len(known_N) and wins <= 0.7 * len(known_N) else ""
    return note("obvious pairs", detail, fix, wins=wins, pairs=len(known_N))


def check_pairs(
    model: ModelUnderTest, pairs: Sequence[EvalRow], advance: Advance
) -> Iterator[Finding]:
    """Report accuracy, margin, length bias, end token and truncation on N pairs of the user's.

    `advance` is called with the number of pairs that are newly done.
    """
    chosen_N, rejected_N, cut, reasons = _scores(model, pairs, advance)
    lengths_N2 = np.array([_lengths(model, pair) for pair in pairs], dtype=np.float64)
    extra_N = lengths_N2[:, 0] - lengths_N2[:, 1]
    yield from judged_findings(chosen_N - rejected_N, extra_N, prompt_numbers(pairs))
    yield from _score_length(
        np.concatenate([chosen_N, rejected_N]), np.concatenate([lengths_N2[:, 0], lengths_N2[:, 1]])
    )
    yield from _end_token(model, pairs, chosen_N - rejected_N)
    if cut:
        limit = model.encoder.max_length
        yield note(
            "truncated",
            f"{cut} of {2 * len(pairs)} conversations are longer than max_length={limit}",
            "a larger --max-length, where the model can take it",
            truncated=cut,
        )
    if reasons:
        said = f"{len(reasons)} of {2 * len(pairs)} conversations, the first"
        yield note("unread", f"{said}: {reasons[0]}", unread=len(reasons))


def _end_token(
    model: ModelUnderTest, pairs: Sequence[EvalRow], margins_N: np.ndarray
) -> Iterator[Finding]:
    """Compare the accuracy with an EOS behind each conversation and without, by a binomial test.

    The model gives scores either way, but was trained for one of the two.
    """
    from scipy.stats import binomtest

    other = model.with_other_end(TWO_TURNS)
    if other is None:
        return
    chosen_N, rejected_N, _, _ = _scores(other, pairs, lambda count: None)
    other_N = chosen_N - rejected_N
    known_N = np.isfinite(margins_N) & np.isfinite(other_N)
    if not known_N.any():
        return
    wins_N, other_wins_N = margins_N[known_N] > 0, other_N[known_N] > 0
    own, others = (wins_N & ~other_wins_N).sum(), (other_wins_N & ~wins_N).sum()
    eos, rate, other_rate = other.encoder.eos, wins_N.mean(), other_wins_N.mean()
    detail = f"eos={model.encoder.eos}: {rate:.1%} of {len(wins_N)} pairs; {eos}: {other_rate:.1%}"
    values = {"accuracy": float(rate), "other_accuracy": float(other_rate)}
    if own + others == 0 or binomtest(int(own), int(own + others)).pvalue > _SURE:
        yield note("end token", f"{detail}: these pairs do not tell which is meant", "", **values)
    elif others > own:
        fix = f"use --eos {eos} (eos: {eos} in a config)"
        yield wrong("end token", f"{detail}: it was trained to read the other", fix, **values)
    else:
        yield ok("end token", f"{detail}: as it was trained", **values)


def judged_findings(
    margins_N: np.ndarray, extra_N: np.ndarray, prompt_N: np.ndarray
) -> Iterator[Finding]:
    """Yield accuracy, margin and length bias of N pairs.

    Args:
        margins_N: (N,), positive where the chosen response wins, NaN where missing.
        extra_N: (N,), length of the chosen response minus that of the rejected one.
        prompt_N: (N,), equal for pairs of one prompt, which are no independent measurements.
    """
    known_N = np.isfinite(margins_N)
    missing = int((~known_N).sum())
    if missing:
        yield note(
            "missing", f"{missing} of {len(margins_N)} pairs have no verdict", missing=missing
        )
    if not known_N.any():
        yield wrong("accuracy", "no pair could be judged", "see the other lines")
        return
    yield _accuracy(margins_N[known_N], prompt_N[known_N])
    yield _margin(margins_N[known_N])
    yield _margin_length(margins_N[known_N], extra_N[known_N], prompt_N[known_N])


def _accuracy(margins: np.ndarray, prompts: np.ndarray) -> Finding:
    found = accuracy(margins, prompts)
    low, high = found.interval.low, found.interval.high
    detail = f"{found.strict:.1%} of {found.pairs} pairs"
    if math.isfinite(low):
        detail += f", 95 % interval {low:.1%} to {high:.1%}"
    detail += f"; {found.ties} tie{'' if found.ties == 1 else 's'}, counted as lost"
    values = {
        "accuracy": found.strict, "low": low, "high": high, "ties": found.ties,
        "pairs": found.pairs,
    }  # fmt: skip
    told = margins != 0
    if accuracy(margins[told], prompts[told]).interval.high < 0.5:
        fix = "are chosen and rejected swapped? else this model is not for these data"
        return wrong("accuracy", f"{detail}: significantly below one half", fix, **values)
    if high < 0.5:
        return wrong("accuracy", f"{detail}: mostly ties", "look at the scores above", **values)
    if not low > 0.5:
        return note(
            "accuracy", f"{detail}: not told apart from guessing", "give more pairs", **values
        )
    return ok("accuracy", detail, **values)


def _margin(margins: np.ndarray) -> Finding:
    mean, half = mean_ci95(margins)
    detail = f"{mean:+.3g} on average, chosen over rejected; median {np.median(margins):+.3g}"
    if len(margins) < 2:
        return ok("margin", detail, mean=mean)
    return ok("margin", detail.replace(" on", f" ± {half:.2g} on", 1), mean=mean, ci95=half)


def _margin_length(margins: np.ndarray, extra: np.ndarray, prompts: np.ndarray) -> Finding:
    """Correlate the margin with the difference in length between the responses of a pair.

    Within a pair the prompt is the same, so this is cleaner than `_score_length`'s correlation.
    """
    if ((margins != 0) & (extra != 0)).sum() < 2:
        return note("length", "too few pairs of different length to say")
    found = length_bias(margins, extra, prompts, unit="tokens")
    detail = (
        f"the longer answer wins {found.prefers_longer:.0%} of pairs, and is the chosen one in "
        f"{found.longer_is_better:.0%}; margin with difference in length: "
        f"{_said(found.spearman, found.pearson)}"
    )
    values = {
        "longer_wins": found.prefers_longer,
        "longer_chosen": found.longer_is_better,
        "spearman": found.spearman,
        "pearson": found.pearson,
    }
    return _by_strength("length", detail, found.spearman, len(margins), values)


def _score_length(scores_M: np.ndarray, lengths_M: np.ndarray) -> Iterator[Finding]:
    known_M = np.isfinite(scores_M)
    scores, lengths = scores_M[known_M].astype(np.float64), lengths_M[known_M]
    if len(scores) < 3:
        return
    rank, line = spearman(scores, lengths), pearson(scores, lengths)
    detail = f"score with length of the response: {_said(rank, line)}"
    yield _by_strength(
        "length score", detail, rank, len(scores), {"spearman": rank, "pearson": line}
    )


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
    model: ModelUnderTest, pairs: Sequence[EvalRow], advance: Advance
) -> tuple[np.ndarray, np.ndarray, int, list[str]]:
    """Return scores of the chosen and of the rejected responses, (N,) each; the number of
    conversations truncated; and the reasons why some could not be read, whose scores are NaN."""
    conversations = [one for pair in pairs for one in pair.conversations]
    scores_M, cut, reasons = np.full(len(conversations), np.nan), 0, []
    for start in range(0, len(conversations), 2 * _CHUNK):
        chunk = conversations[start : start + 2 * _CHUNK]
        names = [f"pair {(start + n) // 2 + 1}, {_SIDES[n % 2]}" for n in range(len(chunk))]
        readable = model.readable(chunk, names)
        if readable.kept:
            found = model.score([chunk[index] for index in readable.kept])
            scores_M[[start + index for index in readable.kept]] = found
        cut += readable.cut
        reasons += readable.reasons
        advance(len(chunk) // 2)
    return scores_M[::2], scores_M[1::2], cut, reasons


def _lengths(model: ModelUnderTest, pair: EvalRow) -> tuple[int, int]:
    """Return the number of tokens of the chosen and of the rejected response."""
    rows = model.tokenizer(pair.texts, add_special_tokens=False, verbose=False)["input_ids"]
    return len(rows[0]), len(rows[1])
