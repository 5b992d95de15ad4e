"""The most tokens that a run can draw, score, train on and discard."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from raft.plan.run import RunSizes, row_tokens

if TYPE_CHECKING:
    from raft.config.run import RunConfig

__all__ = ["Tokens", "count_tokens", "has_control"]


@dataclass(frozen=True)
class Tokens:
    """The most tokens of one kind: in an iteration (`each`) and in a run (`whole`).

    In the training of a reward model, `each` is a step's, and `whole` is None: not known.
    """

    kind: str
    each: int
    whole: int | None


def has_control(config: RunConfig) -> bool:
    return config.control is not None and not config.select.shuffle


def count_tokens(config: RunConfig, sizes: RunSizes) -> list[Tokens]:
    """Return the most tokens of each kind: with every prompt and response as long as is allowed.

    The `whole` of a run with a control includes the control's, which follows the run.
    """
    found = list(_tokens_of(config, sizes))
    if not has_control(config):
        return found
    again = _tokens_of(config.of_control(config.iterations), sizes)
    return [
        replace(one, whole=(one.whole or 0) + (other.whole or 0))
        for one, other in zip(found, again, strict=True)
    ]


def _tokens_of(config: RunConfig, sizes: RunSizes) -> Iterator[Tokens]:
    prompt, row = row_tokens(config, sizes.policy)
    count, whole = config.prompts.per_iteration, config.sampling.whole
    held_out = config.eval.prompts if isinstance(config.eval.prompts, int) else 0
    evaluations = sum(
        config.evaluation_due(iteration, held_out) for iteration in range(config.iterations + 1)
    )
    trainings = sum(config.trains_in(iteration) for iteration in range(config.iterations + 1))
    drawn = config.sampling.begun + (row - prompt) * whole
    evaluated = held_out * config.eval.k * evaluations
    yield Tokens("drawn", count * drawn, count * drawn * trainings + evaluated * (row - prompt))
    each = count * _read(config, prompt, row)
    yield Tokens("scored", each, each * trainings + held_out * config.eval.k * evaluations * row)
    kept = _kept(config)
    trained = math.ceil(kept * row * config.train.epochs)
    yield Tokens("trained", trained, trained * trainings)
    gone = count * drawn - min(kept, count * whole) * (row - prompt)
    yield Tokens("thrown away", gone, gone * trainings)


def _read(config: RunConfig, prompt: int, row: int) -> int:
    """Return the tokens that reward models read per prompt; a judge reads pairs in both orders."""
    k, begun, found = config.sampling.k, config.sampling.begun, 0
    for part in config.reward.parts():
        if part.kind == "model":
            found += config.sampling.whole * row + (k * prompt + begun if begun else 0)
        elif part.kind == "pairwise":
            every = k * (k - 1) // 2
            matches = k - 1 if part.tournament in (None, "knockout") else every
            found += 2 * (part.budget or matches) * (2 * row - prompt)
    return found


def _kept(config: RunConfig) -> int:
    """Return the most responses of an iteration that are trained on."""
    rule, count, k = config.select, config.prompts.per_iteration, config.sampling.whole
    each = {"best_of_k": 1, "random": 1, "soft": 1, "top_m": rule.m or 1, "best_and_worst": 2}
    if rule.strategy == "global_top_fraction":
        return math.ceil((rule.fraction or 1) * count * k)
    return count * each.get(rule.strategy, rule.per_prompt or k)
