"""What a run does differently where a pairwise judge is its reward.

A tournament's scores compare the responses to one prompt, so they select but make no curve. The
curve of such a run is its held-out win rate: the k-th response of a policy against the k-th one
that the starting policy gave to the same prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from raft.reward_schema import RewardConfig
from rollout.types import Prompt

__all__ = ["by_judge", "judge_metrics", "with_references"]


def by_judge(
    reward: RewardConfig, gold: RewardConfig | None, *, alone: bool = True
) -> tuple[str, ...]:
    """The columns of stored rows ("scores", "gold_scores") that a judge fills: by itself, so that
    held-out scores are probabilities to win, or (`alone=False`) as a part of a combination too."""
    sections = {"scores": reward, "gold_scores": gold}
    return tuple(
        column
        for column, section in sections.items()
        if section is not None
        and any(part.kind == "pairwise" for part in ([section] if alone else section.everything()))
    )


def with_references(
    prompts: Sequence[Prompt], starting: Iterable[Mapping[str, Any]] | None
) -> list[Prompt]:
    """The prompts with the responses that theirs are to be compared with.

    `starting` are the stored rows of the starting policy; None while it is the one that answers,
    which ties with itself.
    """
    from rewards.judges.reward import REFERENCE_FIELD

    references: dict[str, Any] = {prompt.id: None for prompt in prompts}
    references |= {row["id"]: row["responses"] for row in starting or ()}
    return [
        replace(prompt, fields={**prompt.fields, REFERENCE_FIELD: references[prompt.id]})
        for prompt in prompts
    ]


def judge_metrics(reports: Mapping[str, Any], prefix: str) -> dict[str, float | int]:
    """`prefix/judge_…` of the reports by reward name; the gold judge's under `gold_judge_…`."""
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
