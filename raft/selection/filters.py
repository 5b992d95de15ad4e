"""Filters, which make responses unselectable whatever the strategy is.

Axes in names: P prompts, K samples of one prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raft.selection.rules import Scores, as_scores, check_finite
from rollout.errors import InputError


class Filters(TypedDict, total=False):
    """The filters of `mask_unselectable`, as a config gives them; an absent filter is off."""

    reject_pattern: str | None
    min_chars: int
    max_chars: int | None
    min_score: float | None
    min_spread: float | None
    allow_truncated: bool
    unique: bool


_REASONS = (
    "not_finite",
    "low_spread",
    "low_score",
    "rejected",
    "too_short",
    "too_long",
    "truncated",
    "duplicate",
)


def mask_unselectable(
    scores_PK: ArrayLike,
    texts_PK: Sequence[Sequence[str]],
    *,
    reject_pattern: str | None = None,
    min_chars: int = 0,
    max_chars: int | None = None,
    min_score: float | None = None,
    min_spread: float | None = None,
    allow_truncated: bool = True,
    truncated_PK: ArrayLike | None = None,
    unique: bool = False,
) -> tuple[Scores, dict[str, int]]:
    """Replace the scores of samples that may not be selected by NaN, and count them by reason.

    Prompts do not affect one another: P rows at once give the same as one row at a time.

    Args:
        scores_PK: (P, K); a score that is not finite becomes NaN.
        texts_PK: the responses, P rows of K.
        reject_pattern: a regular expression; responses in which it is found are unselectable.
        min_chars: fewest characters of a response, blanks around it not counted. LMFlow's RAFT
            filters with `reject_pattern="#"` and `min_chars=2`.
        max_chars: most characters, counted in the same way.
        min_score: the lowest score that may be selected, whatever the strategy; in a pair both
            responses must reach it.
        min_spread: a prompt is skipped when its best score less its worst is below this: between
            samples of equal quality the scores differ by noise alone. All finite scores count,
            also those that other filters mask; a single one has spread 0.
        allow_truncated: False masks samples cut at the length limit, those of `truncated_PK`.
        unique: of equal responses to one prompt only the first that is selectable stays so.

    Returns:
        The (P, K) masked scores, a copy, and how many samples were masked for each reason:
        "not_finite", "low_spread", "low_score", "rejected", "too_short", "too_long", "truncated",
        "duplicate". A sample counts for the first of its reasons.

    Raises:
        InputError: for an invalid regular expression, or a bound that is not finite.
        ValueError: for texts or truncation flags that are not (P, K) like the scores.
    """
    scores_PK = as_scores(scores_PK)
    shape = scores_PK.shape
    if [len(row) for row in texts_PK] != [shape[1]] * shape[0]:
        raise ValueError(f"texts must be (P, K) = {shape}, like the scores")
    reasons = _refused_by_score(scores_PK, min_score, min_spread)
    for reason, test in _text_tests(reject_pattern, min_chars, max_chars).items():
        reasons[reason] = _flags(texts_PK, shape, test)
    if not allow_truncated:
        reasons["truncated"] = _truncated_like(scores_PK, truncated_PK)
    counts: dict[str, int] = dict.fromkeys(_REASONS, 0)
    masked_PK = np.zeros(shape, dtype=bool)
    for reason, flags_PK in reasons.items():
        counts[reason] = int((flags_PK & ~masked_PK).sum())
        masked_PK |= flags_PK
    if unique:
        repeats_PK = _repeats(texts_PK, masked_PK)
        counts["duplicate"] = int(repeats_PK.sum())
        masked_PK |= repeats_PK
    return np.where(masked_PK, np.nan, scores_PK), counts


def compile_reject_pattern(pattern: str | None) -> re.Pattern[str] | None:
    """Return the compiled pattern, None for None. Raises InputError for an invalid expression."""
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise InputError(
            "select.reject_pattern",
            f"{pattern!r} is not a regular expression ({error})",
            "escape special characters with a backslash",
        ) from None


def _refused_by_score(
    scores_PK: Scores, min_score: float | None, min_spread: float | None
) -> dict[str, NDArray[np.bool_]]:
    """Return (P, K) flags of the samples that each reason about scores masks, by reason.

    "low_spread" comes before "low_score", because it masks all samples of a prompt.
    Raises InputError for a bound that is not finite.
    """
    for name, bound in (("min_score", min_score), ("min_spread", min_spread)):
        if bound is not None:
            check_finite(name, bound)
    finite_PK = np.isfinite(scores_PK)
    reasons = {"not_finite": ~finite_PK}
    if min_spread is not None:
        best_P1 = np.where(finite_PK, scores_PK, -np.inf).max(axis=1, keepdims=True)
        worst_P1 = np.where(finite_PK, scores_PK, np.inf).min(axis=1, keepdims=True)
        # a prompt without a finite score has spread -inf; its samples are "not_finite" already
        reasons["low_spread"] = np.broadcast_to(best_P1 - worst_P1 < min_spread, scores_PK.shape)
    if min_score is not None:
        reasons["low_score"] = finite_PK & (scores_PK < min_score)
    return reasons


def _text_tests(
    reject_pattern: str | None, min_chars: int, max_chars: int | None
) -> dict[str, Callable[[str], bool]]:
    """Return, by reason, the test that tells whether a response's text makes it unselectable."""
    tests: dict[str, Callable[[str], bool]] = {}
    pattern = compile_reject_pattern(reject_pattern)
    if pattern is not None:
        tests["rejected"] = lambda text: pattern.search(text) is not None
    tests["too_short"] = lambda text: len(text.strip()) < min_chars
    if max_chars is not None:
        tests["too_long"] = lambda text: len(text.strip()) > max_chars
    return tests


def _flags(
    texts_PK: Sequence[Sequence[str]], shape: tuple[int, ...], test: Callable[[str], bool]
) -> NDArray[np.bool_]:
    flags = [test(text) for row in texts_PK for text in row]
    return np.array(flags, dtype=bool).reshape(shape)


def _truncated_like(scores_PK: Scores, truncated_PK: ArrayLike | None) -> NDArray[np.bool_]:
    flags_PK = None if truncated_PK is None else np.asarray(truncated_PK, dtype=bool)
    if flags_PK is None or flags_PK.shape != scores_PK.shape:
        raise ValueError(f"truncated_PK must be (P, K) = {scores_PK.shape}, like the scores")
    return flags_PK


def _repeats(texts_PK: Sequence[Sequence[str]], masked_PK: NDArray[np.bool_]) -> NDArray[np.bool_]:
    repeats_PK = np.zeros(masked_PK.shape, dtype=bool)
    for p, texts_K in enumerate(texts_PK):
        seen: set[str] = set()
        for k, text in enumerate(texts_K):
            if not masked_PK[p, k]:
                repeats_PK[p, k] = text in seen
                seen.add(text)
    return repeats_PK
