"""Measure what `sampling.adaptive` would have drawn from stored samples, against a fixed K.

The samples of each prompt are taken in random order, several times, and the rule of `raft.adaptive`
decides after each wave as in a run; the prompts of a part, for example an iteration, are one batch.
A fixed K is estimated from all subsets of the same samples. Axes in names: P prompts, N stored
samples of one prompt, S values of K from 1, B resamples of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from raft.adaptive import Adaptive, next_wave
from raft.bon.estimate import Estimate, estimate, expected_best_of_ns
from raft.stored.pool import Pool
from rewards.evaluation.stats import interval95, resampled_ratios
from rollout.errors import InputError
from rollout.seeds import derive_seed

__all__ = ["Waves", "draw_in_waves", "measure_waves"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


class Waves(TypedDict):
    """Means over prompts, with intervals, of drawing in waves with a budget of `k` per prompt.

    Attributes:
        most: samples that a prompt may get.
        prompts_short: prompts that have too few scores to be measured.
        samples: number drawn per prompt.
        score: score of the best sample.
        gain: by how much `score` is above that of the best of a fixed K of as many samples.
        gold_gain: the same difference in gold scores; None without gold.
        saved: share of samples saved against the fixed K whose best has the same score; against the
            largest stored K where none has.
    """

    k: int
    most: int
    prompts: int
    prompts_short: int
    samples: Estimate
    score: Estimate
    gain: Estimate
    gold_gain: Estimate | None
    saved: Estimate


def draw_in_waves(scores_PN: Floats, adaptive: Adaptive, k: int) -> tuple[Indices, Indices]:
    """Draw in waves from stored scores, taken in their order.

    Returns (P,) numbers of samples drawn, and (P,) places of the best one of these.
    """
    drawn_P = np.full(len(scores_PN), adaptive.first)
    while True:
        so_far = [row[:n].tolist() for row, n in zip(scores_PN, drawn_P.tolist(), strict=True)]
        wave = next_wave(so_far, adaptive, k)
        if not len(wave.rows):
            return drawn_P, np.array([int(np.argmax(row)) for row in so_far])
        drawn_P[wave.rows] += wave.size


def measure_waves(
    pools: Sequence[Pool], adaptive: Adaptive, k: int, *, draws: int, seed: int, resamples: int
) -> Waves:
    """Measure the best of the samples drawn in waves, k per prompt on average, over random orders.

    Samples that a filter refuses by their text count as without a score. Prompts with fewer scores
    than `most`, the samples that a prompt may get, are skipped.

    Raises:
        InputError: fewer than 2 prompts have `most` scores.
    """
    most = adaptive.most or 4 * k
    scores = [np.where(pool.refused_PN, np.nan, pool.score_PN) for pool in pools]
    sizes = [np.isfinite(score_PN).sum(axis=1) for score_PN in scores]
    size_P = np.concatenate(sizes)
    if (size_P >= most).sum() < 2:
        raise InputError(
            "--adaptive",
            f"{(size_P >= most).sum()} prompts have {most} scores, which one may ask for",
            "lower most, or store more samples",
        )
    ns = range(1, int(size_P[size_P >= most].min()) + 1)
    with_gold = all("gold" in pool.values for pool in pools)
    found: list[Floats] = []
    ids: list[str] = []
    for at, (pool, score_PN, own_P) in enumerate(zip(pools, scores, sizes, strict=True)):
        rows_P = np.flatnonzero(own_P >= most)
        value_PN = pool.values["gold"] if with_gold else score_PN
        part = score_PN[rows_P], value_PN[rows_P]
        drawn_P3 = _drawn(*part, adaptive, k, draws, derive_seed(seed, "waves", at))
        curves = [expected_best_of_ns(part[0], ns), expected_best_of_ns(part[0], ns, part[1])]
        found.append(np.concatenate([drawn_P3, *curves], axis=1))
        ids += [pool.ids[row] for row in rows_P]
    value_PT = np.concatenate(found)
    mean_1T, ones_PT = value_PT.mean(axis=0)[None], np.ones_like(value_PT)
    mean_BT = resampled_ratios(value_PT, ones_PT, ids, resamples=resamples, seed=seed)
    means, clusters = _compared(np.concatenate([mean_1T, mean_BT])), len({*ids})
    ends = {name: interval95(mean_B[1:], clusters) for name, mean_B in means.items()}
    told = {name: estimate(means[name][0], end.low, end.high) for name, end in ends.items()}
    return {
        "k": k,
        "most": most,
        "prompts": len(ids),
        "prompts_short": len(size_P) - len(ids),
        "samples": told["samples"],
        "score": told["score"],
        "gain": told["gain"],
        "gold_gain": told["gold_gain"] if with_gold else None,
        "saved": told["saved"],
    }


def _drawn(
    score_PN: Floats, value_PN: Floats, adaptive: Adaptive, k: int, draws: int, seed: int
) -> Floats:
    """Return (P, 3) means over random orders: number of samples, score and value of the best."""
    rng, total_P3 = np.random.default_rng(seed), np.zeros((len(score_PN), 3))
    rows_P1 = np.arange(len(score_PN))[:, None]
    for _ in range(draws if len(score_PN) else 0):
        keys_PN = np.where(np.isfinite(score_PN), rng.random(score_PN.shape), np.inf)
        order_PN = keys_PN.argsort(axis=1)
        drawn_P, best_P = draw_in_waves(score_PN[rows_P1, order_PN], adaptive, k)
        at = rows_P1[:, 0], order_PN[rows_P1[:, 0], best_P]
        total_P3 += np.stack([drawn_P, score_PN[at], value_PN[at]], axis=1)
    return total_P3 / draws


def _compared(mean_BT: Floats) -> dict[str, Floats]:
    """Return (B,) arrays by name: the estimates of `Waves`, from B rows of means over prompts.

    A row has the columns that `measure_waves` stacks: 3 of drawing in waves, then the curves of a
    fixed K in scores and in values, S each.
    """
    samples_B, score_B, value_B = mean_BT[:, :3].T
    curve_BS, value_BS = np.split(mean_BT[:, 3:], 2, axis=1)
    ns_S = np.arange(1, curve_BS.shape[1] + 1)
    rows = range(len(mean_BT))
    fixed_B = np.array([np.interp(samples_B[b], ns_S, curve_BS[b]) for b in rows])
    fixed_value_B = np.array([np.interp(samples_B[b], ns_S, value_BS[b]) for b in rows])
    same_B = np.array([np.interp(score_B[b], curve_BS[b], ns_S) for b in rows])
    return {
        "samples": samples_B,
        "score": score_B,
        "gain": score_B - fixed_B,
        "gold_gain": value_B - fixed_value_B,
        "saved": 1 - samples_B / same_B,
    }
