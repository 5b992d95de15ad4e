"""Compute each benchmark's own tables, in percent as they are published."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from rewards.evaluation.accuracy import accuracy_by
from rewards.evaluation.dataset import EvalSet
from rewards.evaluation.rewardbench import Weights, rewardbench
from rewards.evaluation.rewardbench2 import TIES, TiedRow, best_of_n, rewardbench2, ties_score
from rewards.evaluation.scores import Scored
from rewards.evaluation.small_benchmarks import (
    GROUPS,
    StyleMatrix,
    best_of_n_hit,
    domain_of,
    group_of,
    kendall_tau,
    mean_of_domains,
    style_matrix,
)
from rewards.evaluation.stats import interval95, resampled_ratios

__all__ = [
    "Benchmark",
    "HHHTable",
    "JudgeBenchTable",
    "ListsTable",
    "NoTable",
    "RMBenchTable",
    "RewardBench2Table",
    "RewardBenchTable",
    "benchmark",
]


@dataclass(frozen=True, slots=True)
class NoTable:
    """The reason why a reward has no table of a benchmark."""

    benchmark: str
    note: str


@dataclass(frozen=True, slots=True)
class WeightedSections:
    """RewardBench's section and overall scores by one weighting, in percent.

    `low` and `high` are the 95 % interval of `overall`.
    """

    sections: dict[str, float]
    overall: float
    low: float
    high: float
    overall_without_prior: float
    overall_unweighted: float
    missing_subsets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RewardBenchTable:
    benchmark: str
    current: WeightedSections
    until_2024_09: WeightedSections = field(metadata={"json": "2024-09"})


@dataclass(frozen=True, slots=True)
class SubsetScore:
    score: float
    rows: int
    missing: int


@dataclass(frozen=True, slots=True)
class TiesScore:
    """The score of the subset Ties in percent, and its parts as shares: see `rewardbench2.Ties`."""

    score: float
    rows: int
    missing: int
    tied: float
    ref: float
    preferred: float
    preferred_hard: float
    gap: float


@dataclass(frozen=True, slots=True)
class RewardBench2Table:
    """RewardBench 2's scores in percent; `random` is the score of guessing."""

    benchmark: str
    overall: float
    random: float
    subsets: dict[str, SubsetScore | TiesScore]
    missing_subsets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Levels:
    """RM-Bench's accuracies, in percent, by how much style speaks against the right response."""

    hard: float
    normal: float
    easy: float
    average: float

    @classmethod
    def percent(cls, levels: StyleMatrix | Mapping[str, float]) -> Levels:
        names = ("hard", "normal", "easy", "average")
        if isinstance(levels, StyleMatrix):
            return cls(*(100 * getattr(levels, name) for name in names))
        return cls(*(100 * levels[name] for name in names))


@dataclass(frozen=True, slots=True)
class RMBenchTable:
    """RM-Bench's scores in percent.

    `matrix` and `counts` are (3, 3), right response's style × wrong response's style.
    """

    benchmark: str
    matrix: list[list[float]]
    counts: list[list[int]]
    domains: dict[str, Levels]
    hard: float
    normal: float
    easy: float
    average: float


@dataclass(frozen=True, slots=True)
class GroupScore:
    score: float
    pairs: int


@dataclass(frozen=True, slots=True)
class JudgeBenchTable:
    benchmark: str
    groups: dict[str, GroupScore]
    overall: float


@dataclass(frozen=True, slots=True)
class HHHTable:
    benchmark: str
    categories: dict[str, float]
    mean_of_categories: float


@dataclass(frozen=True, slots=True)
class RowMean:
    """A mean over rows with its 95 % interval, by resampling prompts."""

    mean: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True, slots=True)
class ListsTable:
    benchmark: str
    best_of_n: RowMean
    kendall_tau: RowMean


Benchmark = (
    NoTable
    | RewardBenchTable
    | RewardBench2Table
    | RMBenchTable
    | JudgeBenchTable
    | HHHTable
    | ListsTable
)


def benchmark(data: EvalSet, scored: Scored, *, resamples: int, seed: int) -> Benchmark | None:
    """Return the tables of the set's own benchmark; None where it has none."""
    if data.form == "rewardbench":
        return _rewardbench(data, scored, resamples, seed)
    if data.form == "rewardbench2":
        return _rewardbench2(data, scored)
    if data.form == "rm-bench":
        return _rm_bench(data, scored)
    if data.form == "judgebench":
        return _judgebench(data, scored)
    if data.form == "hhh":
        return _hhh(data, scored)
    if data.form == "listwise":
        return _listwise(data, scored, resamples, seed)
    return None


def _rewardbench(data: EvalSet, scored: Scored, resamples: int, seed: int) -> RewardBenchTable:
    """Compute sections by both weightings; the overall interval is by resampling prompts."""
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

    def by(weights: Weights) -> WeightedSections:
        return _sections(subsets, rates, draws_BS, weights, prompts)

    return RewardBenchTable("RewardBench", current=by("current"), until_2024_09=by("2024-09"))


def _sections(
    subsets: list[str],
    rates: Mapping[str, float],
    draws_BS: np.ndarray,
    weights: Weights,
    prompts: int,
) -> WeightedSections:
    one = rewardbench(rates, weights)
    draws_B = [
        rewardbench(dict(zip(subsets, draw, strict=True)), weights).overall
        for draw in draws_BS.tolist()
    ]
    interval = interval95(np.array(draws_B), prompts)
    return WeightedSections(
        sections=one.sections,
        overall=one.overall,
        low=interval.low,
        high=interval.high,
        overall_without_prior=one.without_prior,
        overall_unweighted=one.unweighted,
        missing_subsets=one.missing,
    )


def _rewardbench2(data: EvalSet, scored: Scored) -> RewardBench2Table | NoTable:
    if scored.scores_R is None:
        return NoTable("RewardBench 2", "best of four needs scores, not comparisons")
    rows: dict[str, list[np.ndarray]] = defaultdict(list)
    tied: list[TiedRow] = []
    right_N = [int((gold_K > 0).sum()) for gold_K in data.per_row(data.gold_R)]
    for number, scores_K in enumerate(data.per_row(scored.scores_R)):
        subset = data.source_N[number]
        if subset == TIES:
            tied.append(TiedRow(data.ids[number], scores_K.tolist(), right_N[number]))
        else:
            rows[subset].append(scores_K)
    parts: dict[str, SubsetScore | TiesScore] = {}
    for subset, these in rows.items():
        one = best_of_n(these)
        parts[subset] = SubsetScore(100 * one.score, one.rows, one.missing)
    if tied:
        ties = ties_score(tied)
        parts[TIES] = TiesScore(
            100 * ties.score, ties.prompts, ties.missing, ties.tied, ties.ref,
            ties.preferred, ties.preferred_hard, ties.gap,
        )  # fmt: skip
    overall, missing = rewardbench2({name: part.score for name, part in parts.items()})
    return RewardBench2Table("RewardBench 2", overall, 25.0, parts, missing)


def _rm_bench(data: EvalSet, scored: Scored) -> RMBenchTable:
    margins_N33 = scored.margins_M.reshape(-1, 3, 3)
    domain_N = np.array([domain_of(source, data.source.stem) for source in data.source_N])
    domains = {
        str(name): style_matrix(margins_N33[domain_N == name]) for name in np.unique(domain_N)
    }
    whole = style_matrix(margins_N33)
    levels = Levels.percent(mean_of_domains(list(domains.values())))
    return RMBenchTable(
        benchmark="RM-Bench",
        matrix=(100 * whole.matrix).tolist(),
        counts=whole.counts.tolist(),
        domains={name: Levels.percent(one) for name, one in domains.items()},
        hard=levels.hard,
        normal=levels.normal,
        easy=levels.easy,
        average=levels.average,
    )


def _judgebench(data: EvalSet, scored: Scored) -> JudgeBenchTable:
    """Compute scores in which ties and missing verdicts lose, as in the benchmark's own count."""
    names = [group_of(source) for source in data.source_M]
    groups = accuracy_by(names, scored.margins_M, data.prompt_M, resamples=1)
    order = [name for name in (*GROUPS.values(), "Other") if name in groups]
    return JudgeBenchTable(
        "JudgeBench",
        groups={name: GroupScore(100 * groups[name].of_all, names.count(name)) for name in order},
        overall=100 * float(np.mean(scored.margins_M > 0)),
    )


def _hhh(data: EvalSet, scored: Scored) -> HHHTable:
    parts = accuracy_by(data.source_M, scored.margins_M, data.prompt_M, resamples=1)
    shares = {name: 100 * one.strict for name, one in parts.items()}
    return HHHTable("HHH", shares, float(np.mean(list(shares.values()))))


def _listwise(data: EvalSet, scored: Scored, resamples: int, seed: int) -> ListsTable | NoTable:
    """Compute means over the rows that have all scores, and responses of different known value."""
    if scored.scores_R is None:
        return NoTable("lists", "best of n needs scores, not comparisons")
    hits, taus = [], []
    for scores_K, gold_K in zip(
        data.per_row(scored.scores_R), data.per_row(data.gold_R), strict=True
    ):
        known_K = np.isfinite(gold_K)
        differ = len(set(gold_K[known_K].tolist())) > 1
        hits.append(best_of_n_hit(scores_K[known_K], gold_K[known_K]) if differ else math.nan)
        taus.append(kendall_tau(scores_K[known_K], gold_K[known_K]) if differ else math.nan)
    return ListsTable(
        "lists",
        best_of_n=_mean(np.array(hits), data.prompt_N, 100, resamples, seed),
        kendall_tau=_mean(np.array(taus), data.prompt_N, 1, resamples, seed),
    )


def _mean(
    values_N: np.ndarray, prompt_N: np.ndarray, scale: float, resamples: int, seed: int
) -> RowMean:
    known_N = np.isfinite(values_N)
    if not known_N.any():
        return RowMean(math.nan, math.nan, math.nan, 0)
    values, prompts = values_N[known_N], prompt_N[known_N]
    ones = np.ones((len(values), 1))
    draws_B1 = resampled_ratios(values[:, None], ones, prompts, resamples=resamples, seed=seed)
    interval = interval95(draws_B1[:, 0], len(np.unique(prompts)))
    return RowMean(
        scale * float(values.mean()), scale * interval.low, scale * interval.high, len(values)
    )
