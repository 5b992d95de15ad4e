"""What each benchmark's own tables say, in percent as they are published, ready for JSON."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from rewards.evaluation.accuracy import accuracy_by
from rewards.evaluation.dataset import EvalSet
from rewards.evaluation.rewardbench import Weights, rewardbench
from rewards.evaluation.rewardbench2 import TIES, TiedRow, best_of_n, rewardbench2, ties_score
from rewards.evaluation.scores import Scored
from rewards.evaluation.small_benchmarks import (
    GROUPS,
    best_of_n_hit,
    domain_of,
    group_of,
    kendall_tau,
    mean_of_domains,
    style_matrix,
)
from rewards.evaluation.stats import Interval, interval95, resampled_ratios

__all__ = ["benchmark"]


def benchmark(data: EvalSet, scored: Scored, *, resamples: int, seed: int) -> dict[str, Any] | None:
    """The tables of the set's own benchmark; None where it has none, or none that margins make."""
    settings = {"resamples": resamples, "seed": seed}
    if data.form == "rewardbench":
        return _rewardbench(data, scored, **settings)
    if data.form == "rewardbench2":
        return _rewardbench2(data, scored)
    if data.form == "rm-bench":
        return _rm_bench(data, scored)
    if data.form == "judgebench":
        return _judgebench(data, scored)
    if data.form == "hhh":
        return _hhh(data, scored)
    if data.form == "listwise":
        return _listwise(data, scored, **settings)
    return None


def _rewardbench(data: EvalSet, scored: Scored, *, resamples: int, seed: int) -> dict[str, Any]:
    """Sections by both weightings, the overall score's interval by resampling prompts."""
    subsets = sorted(set(data.source_M))
    at_M = np.array([subsets.index(name) for name in data.source_M])
    in_MS = at_M[:, None] == np.arange(len(subsets))
    known_MS = in_MS & np.isfinite(scored.margins_M)[:, None]
    won_MS = in_MS & (scored.margins_M > 0)[:, None]
    with np.errstate(invalid="ignore"):
        rates_S = won_MS.sum(axis=0) / known_MS.sum(axis=0)
    draws_BS = resampled_ratios(won_MS, known_MS, data.prompt_M, resamples=resamples, seed=seed)
    prompts = len(set(data.prompt_N.tolist()))
    rates = dict(zip(subsets, rates_S.tolist(), strict=True))
    found: dict[str, Any] = {"benchmark": "RewardBench"}
    for weights in ("current", "2024-09"):
        found[weights] = _sections(subsets, rates, draws_BS, weights, prompts)
    return found


def _sections(
    subsets: list[str],
    rates: Mapping[str, float],
    draws_BS: np.ndarray,
    weights: Weights,
    prompts: int,
) -> dict[str, Any]:
    one = rewardbench(rates, weights)
    draws_B = [
        rewardbench(dict(zip(subsets, draw, strict=True)), weights).overall
        for draw in draws_BS.tolist()
    ]
    return {
        "sections": one.sections,
        "overall": one.overall,
        **_ends(interval95(np.array(draws_B), prompts), 1),
        "overall_without_prior": one.without_prior,
        "overall_unweighted": one.unweighted,
        "missing_subsets": list(one.missing),
    }


def _rewardbench2(data: EvalSet, scored: Scored) -> dict[str, Any]:
    if scored.scores_R is None:
        return {"benchmark": "RewardBench 2", "note": "best of four needs scores, not comparisons"}
    rows: dict[str, list[np.ndarray]] = defaultdict(list)
    tied: list[TiedRow] = []
    right_N = [int((gold_K > 0).sum()) for gold_K in data.per_row(data.gold_R)]
    for number, scores_K in enumerate(data.per_row(scored.scores_R)):
        subset = data.source_N[number]
        if subset == TIES:
            tied.append(TiedRow(data.ids[number], scores_K.tolist(), right_N[number]))
        else:
            rows[subset].append(scores_K)
    parts: dict[str, Any] = {}
    for subset, these in rows.items():
        one = best_of_n(these)
        parts[subset] = {"score": 100 * one.score, "rows": one.rows, "missing": one.missing}
    if tied:
        ties = ties_score(tied)
        shares = {name: getattr(ties, name) for name in _TIES}
        parts[TIES] = {
            "score": 100 * ties.score, "rows": ties.prompts, "missing": ties.missing, **shares,
        }  # fmt: skip
    overall, missing = rewardbench2({name: part["score"] for name, part in parts.items()})
    return {
        "benchmark": "RewardBench 2", "overall": overall, "random": 25.0, "subsets": parts,
        "missing_subsets": list(missing),
    }  # fmt: skip


_TIES = ("tied", "ref", "preferred", "preferred_hard", "gap")


def _rm_bench(data: EvalSet, scored: Scored) -> dict[str, Any]:
    margins_N33 = scored.margins_M.reshape(-1, 3, 3)
    domain_N = np.array([domain_of(source) for source in data.source_N])
    domains = {
        str(name): style_matrix(margins_N33[domain_N == name]) for name in np.unique(domain_N)
    }
    levels = ("hard", "normal", "easy", "average")
    whole = style_matrix(margins_N33)
    return {
        "benchmark": "RM-Bench",
        "matrix": (100 * whole.matrix).tolist(),
        "counts": whole.counts.tolist(),
        "domains": {
            name: {level: 100 * getattr(one, level) for level in levels}
            for name, one in domains.items()
        },
        **{k: 100 * v for k, v in mean_of_domains(list(domains.values())).items()},
    }


def _judgebench(data: EvalSet, scored: Scored) -> dict[str, Any]:
    """Ties and missing verdicts lose, as in the benchmark's own count."""
    names = [group_of(source) for source in data.source_M]
    groups = accuracy_by(names, scored.margins_M, data.prompt_M, resamples=1)
    order = [name for name in (*GROUPS.values(), "Other") if name in groups]
    return {
        "benchmark": "JudgeBench",
        "groups": {
            name: {"score": 100 * groups[name].of_all, "pairs": names.count(name)} for name in order
        },
        "overall": 100 * float(np.mean(scored.margins_M > 0)),
    }


def _hhh(data: EvalSet, scored: Scored) -> dict[str, Any]:
    parts = accuracy_by(data.source_M, scored.margins_M, data.prompt_M, resamples=1)
    shares = {name: 100 * one.strict for name, one in parts.items()}
    return {
        "benchmark": "HHH",
        "categories": shares,
        "mean_of_categories": float(np.mean(list(shares.values()))),
    }


def _listwise(data: EvalSet, scored: Scored, *, resamples: int, seed: int) -> dict[str, Any]:
    """Means over rows; a row with a missing score is in none of them."""
    if scored.scores_R is None:
        return {"benchmark": "lists", "note": "best of n needs scores, not comparisons"}
    hits, taus = [], []
    for scores_K, gold_K in zip(
        data.per_row(scored.scores_R), data.per_row(data.gold_R), strict=True
    ):
        known_K = np.isfinite(gold_K)
        differ = len(set(gold_K[known_K].tolist())) > 1
        hits.append(best_of_n_hit(scores_K[known_K], gold_K[known_K]) if differ else math.nan)
        taus.append(kendall_tau(scores_K[known_K], gold_K[known_K]) if differ else math.nan)
    return {
        "benchmark": "lists",
        "best_of_n": _mean(np.array(hits), data.prompt_N, 100, resamples, seed),
        "kendall_tau": _mean(np.array(taus), data.prompt_N, 1, resamples, seed),
    }


def _mean(
    values_N: np.ndarray, prompt_N: np.ndarray, scale: float, resamples: int, seed: int
) -> dict[str, Any]:
    known_N = np.isfinite(values_N)
    if not known_N.any():
        return {"mean": math.nan, "rows": 0}
    values, prompts = values_N[known_N], prompt_N[known_N]
    ones = np.ones((len(values), 1))
    draws_B1 = resampled_ratios(values[:, None], ones, prompts, resamples=resamples, seed=seed)
    interval = interval95(draws_B1[:, 0], len(np.unique(prompts)))
    return {"mean": scale * float(values.mean()), **_ends(interval, scale), "rows": len(values)}


def _ends(interval: Interval, scale: float) -> dict[str, float]:
    return {"low": scale * interval.low, "high": scale * interval.high}
