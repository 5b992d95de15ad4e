"""Compute pass@k and maj@k of the responses to one question, expected over which k of N are drawn.

Counts and labels go in, numbers come out: no texts. Axes in names: N responses to a question, R
random subsets, A different answers that the responses give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["SILENT", "majority_at_k", "pass_at_k", "weighted_majority_at_k"]

# the label of a response that votes for no answer
SILENT = -1
Floats = NDArray[np.float64]


def pass_at_k(total: int, right: int, k: int) -> float:
    """Return the chance that k of `total` responses, drawn without replacement, have a right one.

    1 − C(total − right, k) / C(total, k), the unbiased estimator of Chen et al. 2021 (arXiv
    2107.03374), as a product that cannot overflow. Raises ValueError unless 0 <= right <= total and
    1 <= k <= total.
    """
    _check(total, right, k)
    wrong = total - right
    return 1.0 - math.prod(1.0 - k / i for i in range(wrong + 1, total + 1))


def majority_at_k(right: int, others: Sequence[int], silent: int, k: int) -> float:
    """Return the chance that the right answer has most votes among k of all responses.

    This is the exact majority vote of Wang et al. 2022 (arXiv 2203.11171): no subset is drawn.

    Args:
        right: how many responses give the right answer.
        others: how many give each of the other answers.
        silent: how many give no answer to vote for. They are drawn too.

    Of t answers with most votes each wins 1 time in t; without any vote nothing is right. Raises
    ValueError unless counts are 0 or more and 1 <= k <= their sum.
    """
    total = right + sum(others) + silent
    _check(total, right, k)
    if min([silent, *others]) < 0:
        raise ValueError(f"counts must be 0 or more: {list(others)}, {silent}")
    return _majority(right, tuple(sorted(one for one in others if one)), silent, k)


def weighted_majority_at_k(
    label_N: ArrayLike, weight_N: ArrayLike, k: int, *, right: int = 0, draws: int, seed: int
) -> float:
    """Return `majority_at_k` with votes that count their weight (Li et al. 2023, arXiv 2206.02336).

    This is the mean over `draws` random subsets, which is unbiased; exact where k is N.

    Args:
        label_N: the answer that each response gives, 0 or more, or `SILENT`. A vote whose weight
            is not finite is silent.
        right: the label that is right.

    Raises ValueError unless 1 <= k <= N.
    """
    label_N, weight_N = np.asarray(label_N), np.asarray(weight_N, dtype=np.float64)
    total = len(label_N)
    _check(total, 0, k)
    votes_N = (label_N >= 0) & np.isfinite(weight_N)
    times = 1 if k == total else draws
    order_RN = np.random.default_rng(seed).random((times, total)).argsort(axis=1)
    drawn_RN = np.zeros((times, total))
    np.put_along_axis(drawn_RN, order_RN[:, :k], 1.0, axis=1)
    given_NA = (label_N[:, None] == np.arange(max(label_N.max(), right) + 1)) & votes_N[:, None]
    count_RA = drawn_RN @ given_NA
    weight_RA = drawn_RN @ np.where(given_NA, weight_N[:, None], 0.0)
    # an answer without a vote in the subset loses to any with one, even one of negative weight
    weight_RA = np.where(count_RA > 0, weight_RA, -np.inf)
    best_RA = np.isclose(weight_RA, weight_RA.max(axis=1, keepdims=True), rtol=1e-12, atol=0)
    best_RA &= count_RA > 0
    shares_R = best_RA[:, right] / np.maximum(best_RA.sum(axis=1), 1)
    return float(shares_R.mean())


@lru_cache(maxsize=1 << 16)
def _majority(right: int, others: tuple[int, ...], silent: int, k: int) -> float:
    """Sum P(right has m votes, t others have m, none more) / (t + 1) over m and t.

    The votes of the answers in a subset of k are independent binomials of one p, given that they
    add up to k, whatever p is: the sum takes products of their polynomials, and no binomial
    coefficient that overflows.
    """
    p = k / (right + sum(others) + silent)
    mute_S = _binomial(silent, p, k)
    found = 0.0
    for m in range(1, min(right, k) + 1):
        # (t, s): chance that t others have m votes, none more, and all of them s
        chance_TS = np.zeros((1 + min(len(others), k // m), k - m + 1))
        chance_TS[0, : min(len(mute_S), k - m + 1)] = mute_S[: k - m + 1]
        for count in others:
            chance_TS = _with_another(chance_TS, _binomial(count, p, k), m)
        ways = _binomial(right, p, k)[m]
        found += ways * float((chance_TS[:, k - m] / np.arange(1, len(chance_TS) + 1)).sum())
    return found / float(_binomial(right + sum(others) + silent, p, k)[k])


def _with_another(chance_TS: Floats, votes_S: Floats, m: int) -> Floats:
    """Add another answer to the chances: fewer than m votes, or m and one more at the top."""
    size = chance_TS.shape[1]
    found_TS = np.zeros_like(chance_TS)
    for votes, chance in enumerate(votes_S[: m + 1].tolist()):
        if votes >= size:
            break
        moved_TS = chance * chance_TS[:, : size - votes]
        if votes < m:
            found_TS[:, votes:] += moved_TS
        else:
            found_TS[1:, votes:] += moved_TS[:-1]
    return found_TS


@lru_cache(maxsize=1 << 12)
def _binomial(count: int, p: float, most: int) -> Floats:
    """Return the chances of 0 … min(count, most) successes in `count` trials of chance p each."""
    from scipy.stats import binom

    return np.asarray(binom.pmf(np.arange(min(count, most) + 1), count, p))


def _check(total: int, right: int, k: int) -> None:
    if not 0 <= right <= total:
        raise ValueError(f"right must be 0 to {total}, and is {right}")
    if not 1 <= k <= total:
        raise ValueError(f"k must be 1 to {total}, and is {k}")
