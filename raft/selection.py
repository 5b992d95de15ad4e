"""Which of the drawn samples train the policy: pure functions of a (P, K) array of scores.

Axes in names: P prompts, K samples of one prompt, M selected samples. A score that is NaN or
infinite (a reward that failed or is missing) is never selected. Ties go to the sample drawn first.

`best_of_k` is RAFT's selection (Dong et al. 2023, arXiv 2304.06767, algorithm 1);
`global_top_fraction` is the "top" mode of LMFlow's implementation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rollout.errors import InputError

Scores = NDArray[np.float64]
Indices = NDArray[np.int64]


class Filters(TypedDict, total=False):
    """The filters of `mask_unselectable`, as a config gives them; one that is absent is off."""

    reject_pattern: str | None
    min_chars: int
    max_chars: int | None
    min_score: float | None
    min_spread: float | None
    allow_truncated: bool
    unique: bool


def best_of_k(scores_PK: ArrayLike) -> Indices:
    """(P,): index of the best finite score of each row, -1 where a row has none.

    Raises ValueError where the scores are not a (P, K) array with K >= 1, as do all others here.
    """
    scores_PK = _as_scores(scores_PK)
    best_P = np.where(np.isfinite(scores_PK), scores_PK, -np.inf).argmax(axis=1)
    return np.where(np.isfinite(scores_PK).any(axis=1), best_P, -1)


def top_m(scores_PK: ArrayLike, m: int) -> Indices:
    """(M, 2): the `m` best finite samples of each prompt, all of them where it has fewer."""
    scores_PK = _as_scores(scores_PK)
    return np.argwhere(np.isfinite(scores_PK) & (_ranks(scores_PK) < m))


def global_top_fraction(scores_PK: ArrayLike, fraction: float) -> Indices:
    """(M, 2): the best `fraction` of all finite samples, whichever prompts they answer.

    M is the fraction of the finite samples rounded down, and 1 at least where there are any.
    """
    scores_PK = _as_scores(scores_PK)
    finite = int(np.isfinite(scores_PK).sum())
    # 0.29 * 100 is a little under 29 in floating point, and means 29
    keep = max(int(np.floor(fraction * finite + 1e-9)), min(finite, 1))
    ranks_PK = _ranks(scores_PK.reshape(1, -1)).reshape(scores_PK.shape)
    return np.argwhere(np.isfinite(scores_PK) & (ranks_PK < keep))


def threshold(scores_PK: ArrayLike, min_score: float, per_prompt: int | None = None) -> Indices:
    """(M, 2): finite samples of score >= `min_score`, at most the best `per_prompt` of a prompt."""
    scores_PK = _as_scores(scores_PK)
    keep_PK = np.isfinite(scores_PK) & (scores_PK >= min_score)
    if per_prompt is not None:
        keep_PK &= _ranks(scores_PK) < per_prompt
    return np.argwhere(keep_PK)


def best_and_worst(scores_PK: ArrayLike) -> Indices:
    """(P', 3): prompt, best sample, worst sample, as pairs for DPO-like training.

    A prompt with fewer than two finite scores, or whose finite scores are all equal, states no
    preference and has no row.
    """
    scores_PK = _as_scores(scores_PK)
    best_P, worst_P = best_of_k(scores_PK), best_of_k(-scores_PK)
    rows_P = np.arange(len(scores_PK))
    differs_P = (best_P >= 0) & (scores_PK[rows_P, best_P] > scores_PK[rows_P, worst_P])
    return np.stack([rows_P, best_P, worst_P], axis=1)[differs_P]


def select(strategy: str, scores_PK: ArrayLike, **arguments: object) -> Indices:
    """(M, 2): rows (prompt, sample) that the strategy keeps, in order of prompt, then sample.

    For "best_and_worst" the two rows of a prompt are its best and its worst, in that order.

    Raises:
        InputError: for what `check_strategy` refuses.
    """
    scores_PK = _as_scores(scores_PK)
    check_strategy(strategy, scores_PK.shape[1], **arguments)
    return _SELECTORS[strategy](scores_PK, **_given(arguments))


def check_strategy(strategy: str, k: int, **arguments: object) -> None:
    """Refuse a selection that cannot work with `k` samples per prompt. None means not given.

    Raises:
        InputError: for an unknown strategy or argument, a missing one, or one out of range.
    """
    if strategy not in _SELECTORS:
        known = ", ".join(_SELECTORS)
        raise InputError("select.strategy", f"{strategy!r} is not known", f"use one of {known}")
    given, allowed = _given(arguments), _ARGUMENTS[strategy]
    for name in given.keys() - set(allowed):
        raise InputError(
            f"select.{name}",
            f"{strategy} takes {' and '.join(allowed) or 'no arguments'}",
            f"leave {name} out",
        )
    for name in allowed:
        if name not in given and name not in _OPTIONAL:
            raise InputError(f"select.{name}", f"{strategy} needs it", f"set select.{name}")
    for name, value in given.items():
        _check_range(name, value, k)
    if strategy == "best_and_worst" and k < 2:
        raise InputError("sampling.k", f"{k} is too small for {strategy}", "set it to 2 or more")


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
    """Turn scores that may not be selected into NaN, and count them by reason.

    A prompt's samples are judged among themselves: P rows at once or one at a time, all the same.

    Args:
        scores_PK: (P, K); a score that is not finite becomes NaN.
        texts_PK: the responses, P rows of K.
        reject_pattern: a regular expression; a response in which it is found is discarded.
        min_chars: fewest characters of a response, blanks around it not counted. LMFlow's RAFT
            discards with `reject_pattern="#"` and `min_chars=2`.
        max_chars: most characters, counted alike.
        min_score: the lowest score that may be selected, whatever the strategy; of a pair both
            sides must reach it.
        min_spread: a prompt is skipped when its best score less its worst is below this: samples
            of one quality teach nothing but their noise. All finite scores count, whether other
            filters let them pass or not; a single one has spread 0.
        allow_truncated: False discards samples cut at the length limit, those of `truncated_PK`.
        unique: keep one of several equal responses to one prompt, the first that is selectable.

    Returns:
        The (P, K) masked scores, a copy, and how many samples each reason took: "not_finite",
        "low_spread", "low_score", "rejected", "too_short", "too_long", "truncated", "duplicate".
        A sample counts for its first reason.

    Raises:
        InputError: for an invalid regular expression, or a bound that is not finite.
        ValueError: for texts or truncation flags that are not (P, K) like the scores.
    """
    scores_PK = _as_scores(scores_PK)
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
    """`re.compile`, for a check when the config is read. Raises InputError."""
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise InputError(
            "select.reject_pattern",
            f"{pattern!r} is not a regular expression ({error})",
            "escape special characters with a backslash",
        ) from None


def _best_rows(scores_PK: Scores) -> Indices:
    best_P = best_of_k(scores_PK)
    return np.stack([np.arange(len(best_P)), best_P], axis=1)[best_P >= 0]


def _best_and_worst_rows(scores_PK: Scores) -> Indices:
    return best_and_worst(scores_PK)[:, [0, 1, 0, 2]].reshape(-1, 2)


_SELECTORS: dict[str, Callable[..., Indices]] = {
    "best_of_k": _best_rows,
    "top_m": top_m,
    "global_top_fraction": global_top_fraction,
    "threshold": threshold,
    "best_and_worst": _best_and_worst_rows,
}
_ARGUMENTS = {
    "best_of_k": (),
    "top_m": ("m",),
    "global_top_fraction": ("fraction",),
    "threshold": ("min_score", "per_prompt"),
    "best_and_worst": (),
}
_OPTIONAL = {"per_prompt"}
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


def _given(arguments: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in arguments.items() if value is not None}


def _check_range(name: str, value: object, k: int) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"select.{name}", f"{value!r} is not a finite number", "set it to one")
    if name == "fraction" and not 0 < value <= 1:
        raise InputError("select.fraction", f"{value} is outside (0, 1]", "set it to 0.125, say")
    if name in ("m", "per_prompt"):
        if not isinstance(value, int) or value < 1:
            raise InputError(
                f"select.{name}", f"{value} is not a count", "set it to a whole number from 1"
            )
        if value > k:
            raise InputError(
                f"select.{name}",
                f"{value} is more than the {k} samples of a prompt",
                f"lower it, or set sampling.k to {value} or more",
            )


def _refused_by_score(
    scores_PK: Scores, min_score: float | None, min_spread: float | None
) -> dict[str, NDArray[np.bool_]]:
    """(P, K) flags by reason. The prompt's reason comes first: it has every finite sample."""
    for name, bound in (("min_score", min_score), ("min_spread", min_spread)):
        if bound is not None:
            _check_range(name, bound, scores_PK.shape[1])
    finite_PK = np.isfinite(scores_PK)
    reasons = {"not_finite": ~finite_PK}
    if min_spread is not None:
        best_P1 = np.where(finite_PK, scores_PK, -np.inf).max(axis=1, keepdims=True)
        worst_P1 = np.where(finite_PK, scores_PK, np.inf).min(axis=1, keepdims=True)
        # without a finite score that is -inf, and every sample has its reason already
        reasons["low_spread"] = np.broadcast_to(best_P1 - worst_P1 < min_spread, scores_PK.shape)
    if min_score is not None:
        reasons["low_score"] = finite_PK & (scores_PK < min_score)
    return reasons


def _text_tests(
    reject_pattern: str | None, min_chars: int, max_chars: int | None
) -> dict[str, Callable[[str], bool]]:
    """Reason to what refuses a response's text."""
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


def _as_scores(scores_PK: ArrayLike) -> Scores:
    """A float copy of (P, K) scores, None as NaN."""
    array = np.array(scores_PK, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"scores must be (P, K) with K >= 1, and are {array.shape}")
    return array


def _ranks(scores_PK: Scores) -> Indices:
    """(P, K): place of each score in its row, 0 for the best. Not finite comes last."""
    keys_PK = np.where(np.isfinite(scores_PK), -scores_PK, np.inf)
    # a stable sort leaves equal scores in the order they were drawn
    return keys_PK.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
