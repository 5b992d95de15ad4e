"""Rules that select the samples which train the policy: pure functions of (P, K) scores.

Axes in names: P prompts, K samples of one prompt, M selected samples. A score that is NaN or
infinite (a reward that failed or is missing) is never selected. Ties go to the sample drawn first.

`best_of_k` is RAFT's selection (Dong et al. 2023, arXiv 2304.06767, algorithm 1);
`global_top_fraction` is the "top" mode of LMFlow's implementation. `random`, `soft` and `poisson`
draw at random, from a seed: `random` ignores the scores, so that a run with it is a control that
shows the effect of the reward; `soft` is soft best-of-n (Verdun et al. 2025, arXiv 2505.03156) and
`poisson` best-of-Poisson (Khalaf et al. 2025, arXiv 2506.19248).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rollout.data.samples import LARGEST
from rollout.errors import InputError

Scores = NDArray[np.float64]
Indices = NDArray[np.int64]


def best_of_k(scores_PK: ArrayLike) -> Indices:
    """Return (P,) indices of the best finite score of each row, -1 where a row has none.

    Raises ValueError where the scores are not a (P, K) array with K >= 1, as do all rules here.
    """
    scores_PK = as_scores(scores_PK)
    best_P = np.where(np.isfinite(scores_PK), scores_PK, -np.inf).argmax(axis=1)
    return np.where(np.isfinite(scores_PK).any(axis=1), best_P, -1)


def top_m(scores_PK: ArrayLike, m: int) -> Indices:
    """Return (M, 2) rows (prompt, sample): the `m` best finite samples of each prompt.

    A prompt with fewer than `m` has all its finite samples.
    """
    scores_PK = as_scores(scores_PK)
    return np.argwhere(np.isfinite(scores_PK) & (_ranks(scores_PK) < m))


def global_top_fraction(scores_PK: ArrayLike, fraction: float) -> Indices:
    """Return (M, 2) rows (prompt, sample): the best `fraction` of all finite samples together.

    M is the fraction of the finite samples rounded down, and 1 at least where there are any.
    """
    scores_PK = as_scores(scores_PK)
    finite = int(np.isfinite(scores_PK).sum())
    # 0.29 * 100 is a little under 29 in floating point, and means 29
    keep = max(int(np.floor(fraction * finite + 1e-9)), min(finite, 1))
    ranks_PK = _ranks(scores_PK.reshape(1, -1)).reshape(scores_PK.shape)
    return np.argwhere(np.isfinite(scores_PK) & (ranks_PK < keep))


def threshold(scores_PK: ArrayLike, min_score: float, per_prompt: int | None = None) -> Indices:
    """Return (M, 2) rows (prompt, sample): the finite samples of score >= `min_score`.

    With `per_prompt` at most that many of a prompt, the best ones.
    """
    scores_PK = as_scores(scores_PK)
    keep_PK = np.isfinite(scores_PK) & (scores_PK >= min_score)
    if per_prompt is not None:
        keep_PK &= _ranks(scores_PK) < per_prompt
    return np.argwhere(keep_PK)


def soft_best(scores_PK: ArrayLike, temperature: float, rng: np.random.Generator) -> Indices:
    """Draw a finite sample of each row with probability softmax(score / temperature); return (P,).

    A row without any has -1. `temperature` is in the reward's unit; infinity ignores the scores.
    Drawn as the greatest of score / temperature plus Gumbel noise, which has that distribution.
    """
    scores_PK = as_scores(scores_PK)
    finite_PK = np.isfinite(scores_PK)
    noise_PK = rng.gumbel(size=scores_PK.shape)
    if math.isinf(temperature):
        return best_of_k(np.where(finite_PK, noise_PK, np.nan))
    # relative to the row's best, so that no quotient becomes inf; those that become -inf are
    # clipped to a finite value, and come last
    best_P1 = np.where(finite_PK, scores_PK, -LARGEST).max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        behind_PK = (np.where(finite_PK, scores_PK, np.nan) - best_P1) / temperature
        return best_of_k(np.maximum(behind_PK + noise_PK, -LARGEST))


def poisson_best(scores_PK: ArrayLike, mean: float, rng: np.random.Generator) -> Indices:
    """Return (P,) indices of the best finite score among the first n samples of each row.

    n = 1 + Poisson(mean) is drawn for each row, K at most; -1 where none of the n is finite.
    """
    scores_PK = as_scores(scores_PK)
    first_P1 = 1 + rng.poisson(mean, size=(len(scores_PK), 1))
    return best_of_k(np.where(np.arange(scores_PK.shape[1]) < first_P1, scores_PK, np.nan))


def shuffled(scores_PK: ArrayLike, seed: int) -> Scores:
    """Return the (P, K) scores, each prompt's finite ones permuted among its responses at random.

    Selection and weights by these scores are those of a reward that knows nothing of the responses,
    but has the same distribution.
    """
    scores_PK = as_scores(scores_PK)
    rng = np.random.default_rng(seed)
    for scores_K in scores_PK:
        finite_K = np.isfinite(scores_K)
        scores_K[finite_K] = rng.permutation(scores_K[finite_K])
    return scores_PK


def best_and_worst(scores_PK: ArrayLike) -> Indices:
    """Return (P', 3) rows (prompt, best sample, worst sample), pairs for DPO-like training.

    A prompt with fewer than two finite scores, or whose finite scores are all equal, gives no
    preference and has no row.
    """
    scores_PK = as_scores(scores_PK)
    best_P, worst_P = best_of_k(scores_PK), best_of_k(-scores_PK)
    rows_P = np.arange(len(scores_PK))
    differs_P = (best_P >= 0) & (scores_PK[rows_P, best_P] > scores_PK[rows_P, worst_P])
    return np.stack([rows_P, best_P, worst_P], axis=1)[differs_P]


def all_pairs(scores_PK: ArrayLike, min_gap: float = 0.0, max_pairs: int | None = None) -> Indices:
    """Return (M, 3) rows (prompt, better sample, worse sample) of scores `min_gap` or more apart.

    Equal scores give no preference, and no row. Of each prompt the widest gaps come first, and
    with `max_pairs` only that many.
    """
    found: list[tuple[int, int, int]] = []
    for prompt, scores_K in enumerate(as_scores(scores_PK).tolist()):
        finite = [sample for sample, score in enumerate(scores_K) if math.isfinite(score)]
        gaps = [
            (scores_K[worse] - scores_K[better], better, worse)
            for better in finite
            for worse in finite
            if scores_K[better] > scores_K[worse]
        ]
        wide = sorted(pair for pair in gaps if -pair[0] >= min_gap)[:max_pairs]
        found += [(prompt, better, worse) for _, better, worse in wide]
    return np.array(found, dtype=np.int64).reshape(-1, 3)


def select(strategy: str, scores_PK: ArrayLike, *, seed: int = 0, **arguments: object) -> Indices:
    """Return (M, 2) rows (prompt, sample) that the strategy selects, by prompt, then sample.

    For a strategy of `PAIRED` each two consecutive rows are a pair, the better sample first. `seed`
    is used by the strategies that draw at random, and ignored by the others.

    Raises:
        InputError: for what `check_strategy` refuses.
    """
    scores_PK = as_scores(scores_PK)
    check_strategy(strategy, scores_PK.shape[1], **arguments)
    given = _given(arguments)
    if strategy in DRAWING:
        return _rows(DRAWING[strategy](scores_PK, rng=np.random.default_rng(seed), **given))
    return _SELECTORS[strategy](scores_PK, **given)


def check_strategy(strategy: str, k: int, **arguments: object) -> None:
    """Check that a strategy and its arguments work with `k` samples per prompt.

    An argument that is None counts as not given.

    Raises:
        InputError: for an unknown strategy or argument, a missing one, or one out of range.
    """
    if strategy == "pessimistic":  # a lower bound over an ensemble is a score, not a way to select
        raise InputError(
            "select.strategy",
            "pessimistic is set in the reward",
            "use best_of_k, and reward: {kind: combine, reduce: mean_minus_std, std_weight: 1, "
            "members: […]} (raft score gives it to stored samples)",
        )
    if strategy not in STRATEGIES:
        known = ", ".join(STRATEGIES)
        raise InputError("select.strategy", f"{strategy!r} is not known", f"use one of {known}")
    given, allowed = _given(arguments), ARGUMENTS[strategy]
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
    if strategy in PAIRED and k < 2:
        raise InputError("sampling.k", f"{k} is too small for {strategy}", "set it to 2 or more")


def _rows(best_P: Indices) -> Indices:
    """Return (M, 2) rows (prompt, sample) from one index per prompt, where -1 has no row."""
    return np.stack([np.arange(len(best_P)), best_P], axis=1)[best_P >= 0]


def _best_rows(scores_PK: Scores) -> Indices:
    return _rows(best_of_k(scores_PK))


def _in_turn(pairs_M3: Indices) -> Indices:
    return pairs_M3[:, [0, 1, 0, 2]].reshape(-1, 2)


_SELECTORS: dict[str, Callable[..., Indices]] = {
    "best_of_k": _best_rows,
    "top_m": top_m,
    "global_top_fraction": global_top_fraction,
    "threshold": threshold,
    "all": lambda scores_PK: np.argwhere(np.isfinite(scores_PK)),
    "best_and_worst": lambda scores_PK: _in_turn(best_and_worst(scores_PK)),
    "all_pairs": lambda scores_PK, **given: _in_turn(all_pairs(scores_PK, **given)),
}
PAIRED = ("best_and_worst", "all_pairs")  # strategies that select pairs: a better and a worse one
DRAWING: dict[str, Callable[..., Indices]] = {
    "random": partial(soft_best, temperature=math.inf),
    "soft": soft_best,
    "poisson": poisson_best,
}
STRATEGIES = (*_SELECTORS, *DRAWING)
ARGUMENTS = {
    "random": (),
    "soft": ("temperature",),
    "poisson": ("mean",),
    "best_of_k": (),
    "top_m": ("m",),
    "global_top_fraction": ("fraction",),
    "threshold": ("min_score", "per_prompt"),
    "all": (),
    "best_and_worst": (),
    "all_pairs": ("min_gap", "max_pairs"),
}
_OPTIONAL = {"per_prompt", "min_gap", "max_pairs"}


def _given(arguments: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in arguments.items() if value is not None}


def check_finite(name: str, value: object) -> int | float:
    """Return `value`, a setting of `select`; raise InputError unless it is a finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"select.{name}", f"{value!r} is not a finite number", "set it to one")
    return value


def _check_range(name: str, value: object, k: int) -> None:
    value = check_finite(name, value)
    if name == "fraction" and not 0 < value <= 1:
        raise InputError("select.fraction", f"{value} is outside (0, 1]", "set it to 0.125, say")
    if name in ("temperature", "mean") and value <= 0:
        raise InputError(f"select.{name}", f"{value} is not above 0", "raise it")
    if name in ("m", "per_prompt", "max_pairs"):
        if not isinstance(value, int) or value < 1:
            raise InputError(
                f"select.{name}", f"{value} is not a count", "set it to a whole number from 1"
            )
        if value > k and name != "max_pairs":
            raise InputError(
                f"select.{name}",
                f"{value} is more than the {k} samples of a prompt",
                f"lower it, or set sampling.k to {value} or more",
            )


def as_scores(scores_PK: ArrayLike) -> Scores:
    """Return a float copy of (P, K) scores, None as NaN. Raises ValueError for another shape."""
    array = np.array(scores_PK, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"scores must be (P, K) with K >= 1, and are {array.shape}")
    return array


def padded(rows: Sequence[Sequence[float | None] | Scores]) -> Scores:
    """Return rows of unequal lengths as a (P, K) array, K the length of the longest.

    NaN fills the places after a row's end, and those of None.
    """
    arrays = [np.asarray(row, dtype=np.float64) for row in rows]
    found_PK = np.full((len(arrays), max(map(len, arrays), default=0)), np.nan)
    for number, row in enumerate(arrays):
        found_PK[number, : len(row)] = row
    return found_PK


def _ranks(scores_PK: Scores) -> Indices:
    """Return (P, K) ranks of scores in their rows, 0 for the best; scores not finite come last."""
    keys_PK = np.where(np.isfinite(scores_PK), -scores_PK, np.inf)
    # a stable sort leaves equal scores in the order they were drawn
    return keys_PK.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
