"""Compute the metrics of stored samples, with a score or with a judge as the reward.

A tournament's scores compare the responses to one prompt, so they select but make no curve. The
curve of a run by a pairwise judge is its held-out win rate: the k-th response of a policy against
the k-th one that the starting policy gave to the same prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from raft.early_rejection import measure
from raft.selection.rules import best_of_k, padded
from rewards.evaluation.stats import DistinctN, best_of_k_mean, clustered_mean_ci95, mean_ci95
from rollout.data.samples import REWARD, SampleRow, Scores
from rollout.types import Prompt

if TYPE_CHECKING:
    from raft.config.run import RunConfig
    from raft.config.sampling import SamplingConfig
    from rewards.judges.reward import Report
    from rewards.spec import RewardSpec
    from rollout.storage.rollout_store import RolloutStore

__all__ = [
    "by_judge",
    "compare",
    "judge_metrics",
    "summarize",
    "summarize_held_out",
    "summarize_rollouts",
    "with_references",
]

_GOLD = "gold_scores"
_THROWN_AWAY = "select/tokens_thrown_away"


def summarize(
    rows: Iterable[SampleRow],
    prefix: str,
    without_means: Sequence[str] = (),
    sampling: SamplingConfig | None = None,
) -> dict[str, float | int]:
    """Return reward, gold, best of K, length and diversity of stored rollouts as `prefix/…`.

    `tokens` are of the responses, `scored_tokens` of prompt and response of each one that has a
    reward, by the policy's tokenizer.

    Means are over prompts with half widths of 95 % intervals; what cannot be known is left out, and
    so are the means of the columns `without_means`: tournament scores say nothing on average.
    Where `sampling` is adaptive, means are of the first wave alone: who has further samples depends
    on those before, so that the mean of all is not the policy's.
    """
    rewards: list[Scores] = []
    golds: list[Scores] = []
    lengths: list[int] = []
    scored = 0
    truncated: list[bool] = []
    distinct = (DistinctN(1), DistinctN(2))
    for row in rows:
        rewards.append(row.scores[REWARD])
        golds.append(row.scores.get(_GOLD, []))
        own = [len(ids) for ids in row.token_ids]
        lengths += own
        prompt, pairs = len(row.prompt_token_ids or ()), zip(own, rewards[-1], strict=False)
        scored += sum(prompt + length for length, score in pairs if score is not None)
        truncated += row.truncated
        for text in row.responses:
            for counter in distinct:
                counter.add(text)
    found: dict[str, float | int] = {}
    first = None
    if sampling is not None and sampling.adaptive is not None:
        first, drawn = sampling.adaptive.first, sum(map(len, rewards))
        found[f"{prefix}/samples"] = drawn
        found[f"{prefix}/samples_saved"] = 1 - drawn / (sampling.k * len(rewards))
    if REWARD not in without_means:
        found |= _of_scores([row[:first] for row in rewards], prefix, "reward")
        found[f"{prefix}/best_of_k"] = best_of_k_mean(padded(rewards))
    if any(golds) and _GOLD not in without_means:
        found |= _of_scores([row[:first] for row in golds], prefix, "gold")
    found |= _of_selection(padded(rewards), golds, without_means, prefix)
    found[f"{prefix}/tokens"] = sum(lengths)
    found[f"{prefix}/scored_tokens"] = scored
    found[f"{prefix}/length_mean"] = float(np.mean(lengths))
    found[f"{prefix}/truncated_share"] = float(np.mean(truncated))
    for n, counter in enumerate(distinct, start=1):
        found[f"{prefix}/distinct_{n}"] = counter.share
    # a NaN is no JSON and no measurement
    return {key: value for key, value in found.items() if math.isfinite(value)}


def summarize_rollouts(
    config: RunConfig,
    store: RolloutStore,
    selected: Mapping[str, float | int],
    reports: Mapping[str, Report],
) -> dict[str, float | int]:
    """Return the metrics of an iteration's rollouts, of what was `selected` and of the judges.

    Beginnings that were rejected early count as drawn, and as thrown away.
    """
    judged = by_judge(config.reward, config.gold, alone=False)
    found = summarize(store.rows(), "rollout", without_means=judged, sampling=config.sampling)
    found |= selected
    if config.sampling.early_rejection is not None:
        begun = measure(store.beginnings().rows(), store.rows()).metrics(found)
        thrown = begun["rollout/tokens"] - found["rollout/tokens"]
        found |= begun | {_THROWN_AWAY: found[_THROWN_AWAY] + thrown}
    return found | judge_metrics(reports, "rollout")


def summarize_held_out(
    config: RunConfig,
    store: RolloutStore,
    at_start: Iterable[SampleRow],
    reports: Mapping[str, Report],
) -> dict[str, float | int]:
    """Return the metrics of held-out responses, of their comparison with those of the starting
    policy, and of the judges."""
    return {
        **summarize(store.rows(), "eval"),
        **compare(store.rows(), at_start, by_judge(config.reward, config.gold)),
        **judge_metrics(reports, "eval"),
    }


def _of_selection(
    reward_PK: np.ndarray, golds: list[Scores], without_means: Sequence[str], prefix: str
) -> dict[str, float | int]:
    """Return what selecting the best of K by the reward gains over a random response.

    `selection_gain` is the selected response's reward less the mean of its prompt's, and
    `gold_selection_gain` the same of gold; half widths of 95 % intervals are over prompts, which
    pairs the two. `choice_share` is the share of prompts whose rewards differ: in the others
    nothing is selected. `gold_hit_rate` is how often the selected one has its prompt's best gold,
    and `gold_hit_chance` how often a random one has.
    """
    best_P = best_of_k(reward_PK)
    rows_P = np.flatnonzero(best_P >= 0)
    if not len(rows_P):
        return {}
    reward_PK, best_P = reward_PK[rows_P], best_P[rows_P]
    finite_PK = np.isfinite(reward_PK)
    lowest_P = np.where(finite_PK, reward_PK, np.inf).min(axis=1)
    chosen_P = np.arange(len(best_P)), best_P
    found: dict[str, float | int] = {
        f"{prefix}/choice_share": float((reward_PK[chosen_P] > lowest_P).mean())
    }
    columns = {} if REWARD in without_means else {"selection_gain": reward_PK}
    if any(golds) and _GOLD not in without_means:
        gold_PK = np.where(finite_PK, padded(golds)[rows_P], np.nan)
        columns["gold_selection_gain"] = gold_PK
        hit_PK = gold_PK == np.where(np.isfinite(gold_PK), gold_PK, -np.inf).max(axis=1)[:, None]
        known_P = np.isfinite(gold_PK[chosen_P])
        if known_P.any():
            chance_P = hit_PK.sum(axis=1)[known_P] / np.isfinite(gold_PK).sum(axis=1)[known_P]
            found[f"{prefix}/gold_hit_rate"] = float(hit_PK[chosen_P][known_P].mean())
            found[f"{prefix}/gold_hit_chance"] = float(chance_P.mean())
    for name, value_PK in columns.items():
        known_PK = np.isfinite(value_PK)
        mean_P = np.where(known_PK, value_PK, 0).sum(axis=1) / np.maximum(known_PK.sum(axis=1), 1)
        gain, half_width = mean_ci95(value_PK[chosen_P] - mean_P)
        found |= {f"{prefix}/{name}": gain, f"{prefix}/{name}_ci95": half_width}
    return found


def compare(
    rows: Iterable[SampleRow],
    reference: Iterable[SampleRow],
    judged: Sequence[str] = (),
) -> dict[str, float]:
    """Return `eval/win_rate`: how often a response of this policy beats one of the reference's.

    Per prompt the share of all K × K pairs of finite scores that it wins, a tie counting half;
    then the mean over prompts with the half width of its 95 % interval. By gold scores too, where
    there are any. Both must answer the same prompts. In the columns `judged` the scores are
    probabilities to win already.
    """
    shares: dict[str, list[float]] = {"eval/win_rate": [], "eval/gold_win_rate": []}
    for row, other in zip(rows, reference, strict=True):
        if row.id != other.id:
            raise ValueError(f"prompts {row.id} and {other.id} cannot be compared")
        for name, key in (("eval/win_rate", REWARD), ("eval/gold_win_rate", _GOLD)):
            if key in judged:
                shares[name].append(_mean_of_finite(padded([row.scores[key]])[0]))
            elif key in row.scores and key in other.scores:
                ours_K, theirs_J = padded([row.scores[key]])[0], padded([other.scores[key]])[0]
                shares[name].append(_share_won(ours_K, theirs_J))
    found: dict[str, float] = {}
    for name, values in shares.items():
        found[name], found[f"{name}_ci95"] = mean_ci95(values)
    return {key: value for key, value in found.items() if math.isfinite(value)}


def _mean_of_finite(scores_K: np.ndarray) -> float:
    finite = scores_K[np.isfinite(scores_K)]
    return float(finite.mean()) if len(finite) else math.nan


def _share_won(scores_K: np.ndarray, others_J: np.ndarray) -> float:
    scores_K, others_J = scores_K[np.isfinite(scores_K)], others_J[np.isfinite(others_J)]
    if not (len(scores_K) and len(others_J)):
        return math.nan
    difference_KJ = scores_K[:, None] - others_J[None, :]
    return float(np.mean((difference_KJ > 0) + 0.5 * (difference_KJ == 0)))


def _of_scores(scores: list[Scores], prefix: str, name: str) -> dict[str, float | int]:
    scores_PK = padded(scores)
    mean, half_width = clustered_mean_ci95(scores_PK)
    return {
        f"{prefix}/{name}_mean": mean,
        f"{prefix}/{name}_ci95": half_width,
        f"{prefix}/{name}_missing": sum(map(len, scores)) - int(np.isfinite(scores_PK).sum()),
    }


def by_judge(reward: RewardSpec, gold: RewardSpec | None, *, alone: bool = True) -> tuple[str, ...]:
    """Return the columns of stored rows ("scores", "gold_scores") that a judge fills by itself.

    Their held-out scores are probabilities to win. `alone=False` adds the columns that a combined
    reward with a judge among its members fills.
    """
    sections = {REWARD: reward, _GOLD: gold}
    return tuple(
        column
        for column, section in sections.items()
        if section is not None
        and any(part.kind == "pairwise" for part in ([section] if alone else section.parts()))
    )


def with_references(
    prompts: Sequence[Prompt], starting: Iterable[SampleRow] | None
) -> list[Prompt]:
    """Return the prompts with the responses that a judge compares theirs with.

    `starting` are the stored rows of the starting policy; None while it is the one that is
    evaluated, which ties with itself.
    """
    from rewards.judges.reward import REFERENCE_FIELD

    references: dict[str, list[str] | None] = {prompt.id: None for prompt in prompts}
    references |= {row.id: row.responses for row in starting or ()}
    return [
        replace(prompt, fields={**prompt.fields, REFERENCE_FIELD: references[prompt.id]})
        for prompt in prompts
    ]


def judge_metrics(reports: Mapping[str, Report], prefix: str) -> dict[str, float | int]:
    """Return the judges' reports as `prefix/judge_…`, the gold judge's as `prefix/gold_judge_…`."""
    found: dict[str, float | int] = {}
    for name, report in reports.items():
        key = f"{prefix}/judge" if name == "reward" else f"{prefix}/{name}_judge"
        found[f"{key}_comparisons"] = report.comparisons
        found[f"{key}_position_bias"] = report.position_bias
        found[f"{key}_flip_share"] = report.flip_share
        found[f"{key}_intransitive_share"] = report.intransitive_share
        if report.comparisons:
            found[f"{key}_tie_share"] = report.ties / report.comparisons
    # a share of nothing is no measurement
    return {key: value for key, value in found.items() if math.isfinite(value)}
