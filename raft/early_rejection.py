"""Reject responses by the score of their beginning: K are begun, the best drawn to their end.

Those that go on are drawn again from their own seeds, so that each is the response that a fixed K
has under its number; the tokens of its beginning are drawn twice. What ended within its beginning
is whole already. Axes in names: P prompts, K samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

import numpy as np

from raft.selection.filters import Filters
from raft.selection.rows import selectable_scores
from raft.selection.rules import Scores as Floats
from raft.selection.rules import padded
from rollout.data.samples import REWARD, SampleRow, Scores
from rollout.storage.rollout_store import RolloutStore
from rollout.types import Completion, Group, Prompt, Sampling, setting

__all__ = [
    "EarlyRejection",
    "Measured",
    "Whole",
    "completed",
    "foresight",
    "go_on",
    "measure",
    "unfinished",
]

# of each prompt, by its id, the responses that ended within their beginnings, by their numbers
Whole = Mapping[str, Mapping[int, Completion]]


@dataclass(frozen=True, slots=True)
class EarlyRejection:
    """`sampling.k` responses of a prompt are begun, and scored; the best of them go on."""

    tokens: int = setting(16, "length of a beginning, in tokens", ge=1)
    keep: int = setting(4, "responses of a prompt that go on: the best by their beginnings", ge=1)

    def beginning(self, sampling: Sampling) -> Sampling:
        """Return how beginnings are drawn."""
        least = min(sampling.min_new_tokens, self.tokens)
        return replace(sampling, max_new_tokens=self.tokens, min_new_tokens=least)


def go_on(
    store: RolloutStore, begun: RolloutStore, early: EarlyRejection, filters: Filters, least: int
) -> Whole:
    """Narrow `store` to the samples whose beginnings score best.

    Returns those of them that ended within their beginning, and so are complete already.
    A beginning without a score goes on only where fewer than `early.keep` have one; of equal scores
    the first go on. What ended, with `least` tokens or more, and may not be selected by its text
    counts as one without a score.
    """
    parts: list[Prompt] = []
    whole: dict[str, dict[int, Completion]] = {}
    for prompt, row in zip(store.prompts, begun.rows(), strict=True):
        drawn = row.group(prompt).completions
        ended_K = np.array([not one.truncated and len(one.token_ids) >= least for one in drawn])
        scores_K = padded([row.scores[REWARD]])[0]
        masked_K, _ = selectable_scores(row, filters, row.scores[REWARD])
        scores_K = np.where(ended_K, masked_K, scores_K)
        # what has no score comes last
        order_K = np.argsort(-np.where(np.isfinite(scores_K), scores_K, -np.inf), kind="stable")
        kept = sorted(order_K[: early.keep].tolist())
        parts.append(replace(prompt, samples=tuple(kept)))
        whole[prompt.id] = {k: drawn[k] for k in kept if ended_K[k]}
    store.narrow(parts)
    return whole


def unfinished(
    parts: Sequence[Prompt], whole: Whole, version: int
) -> tuple[list[Prompt], list[Group]]:
    """Return the prompts with the samples that are left to draw, and an empty group for every
    prompt of which nothing is left."""
    if not whole:
        return [*parts], []
    left = [
        replace(part, samples=tuple(k for k in part.samples if k not in whole[part.id]))
        for part in parts
    ]
    ready = [Group(part, (), version) for part in left if not part.samples]
    return [part for part in left if part.samples], ready


def completed(group: Group, whole: Whole) -> Group:
    """Return the group with the responses to its prompt that were complete before, in order."""
    if group.prompt.id not in whole:
        return group
    drawn = dict(zip(group.prompt.samples, group.completions, strict=True))
    every = sorted({**whole[group.prompt.id], **drawn}.items(), key=itemgetter(0))
    prompt = replace(group.prompt, samples=tuple(k for k, _ in every))
    return Group(prompt, tuple(one for _, one in every), group.policy_version)


def foresight(whole_PK: Floats, begun_PK: Floats) -> float:
    """Return the correlation within prompts of the scores of responses and of their beginnings.

    NaN where it is not defined.
    """
    known_PK = np.isfinite(whole_PK) & np.isfinite(begun_PK)
    count_P1 = np.maximum(known_PK.sum(axis=1, keepdims=True), 1)
    apart: list[Floats] = []
    for scores_PK in (whole_PK, begun_PK):
        mean_P1 = np.where(known_PK, scores_PK, 0).sum(axis=1, keepdims=True) / count_P1
        apart.append(np.where(known_PK, scores_PK - mean_P1, 0))
    spread = math.sqrt(float((apart[0] ** 2).sum()) * float((apart[1] ** 2).sum()))
    return float((apart[0] * apart[1]).sum()) / spread if spread else math.nan


@dataclass(frozen=True, slots=True)
class Measured:
    """What beginnings cost, and how well their scores foretold those of the responses.

    Attributes:
        begun, missing: how many there are, and how many of them have no score.
        tokens: all that were drawn; scored_tokens: of prompts and beginnings that have a score.
        tokens_saved: the share of the tokens of K whole responses that was not drawn, where those
            rejected would have been as long as those that went on beyond their beginnings.
        foresight: of those that went on.
    """

    begun: int
    missing: int
    tokens: int
    scored_tokens: int
    tokens_saved: float
    foresight: float

    def metrics(self, found: Mapping[str, float | int]) -> dict[str, float | int]:
        """Return what replaces or joins the metrics `found` of the responses that went on."""
        metrics = {
            "rollout/begun": self.begun,
            "rollout/begun_missing": self.missing,
            "rollout/tokens": self.tokens,
            "rollout/scored_tokens": found["rollout/scored_tokens"] + self.scored_tokens,
            "rollout/tokens_saved": self.tokens_saved,
            "rollout/foresight": self.foresight,
        }
        return {key: value for key, value in metrics.items() if math.isfinite(value)}


def measure(begun: Iterable[SampleRow], rows: Iterable[SampleRow]) -> Measured:
    """Compare beginnings with the responses that went on, row by row."""
    begun_scores: list[Scores] = []
    scores: list[Scores] = []
    count = missing = tokens = read = known = cut = 0
    again: list[int] = []
    for first, row in zip(begun, rows, strict=True):
        own_K, length_K = first.scores[REWARD], [len(ids) for ids in first.token_ids]
        scored_K = np.isfinite(padded([own_K])[0]).tolist()
        begun_scores.append([own_K[k] for k in row.numbers])
        scores.append(row.scores[REWARD])
        whole = dict(zip(row.numbers, map(len, row.token_ids), strict=True))
        dropped = [k for k in range(len(own_K)) if k not in whole]
        count, missing = count + len(own_K), missing + scored_K.count(False)
        tokens += sum(length_K)
        prompt = len(first.prompt_token_ids or ())
        read += sum(prompt + length_K[k] for k, there in enumerate(scored_K) if there)
        again += [n for k, n in whole.items() if first.truncated[k] or n > length_K[k]]
        known += sum(whole.values()) + sum(length_K[k] for k in dropped if not first.truncated[k])
        cut += sum(first.truncated[k] for k in dropped)
    mean = sum(again) / len(again) if again else math.nan
    needed, tokens = known + (cut * mean if cut else 0), tokens + sum(again)
    saved = 1 - tokens / needed if needed else math.nan
    seen = foresight(padded(scores), padded(begun_scores))
    return Measured(count, missing, tokens, read, saved, seen)
