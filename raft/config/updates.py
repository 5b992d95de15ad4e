"""The updates of a policy and their own settings: `train.update` in a run's config.

A kind may stand for its defaults: `update: reinforce` is `update: {kind: reinforce}`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from raft.selection.rules import PAIRED, Scores
from rollout.errors import InputError

__all__ = ["DpoUpdate", "SftUpdate", "UpdateConfig", "of_kind", "own_strategy"]


class _Update(BaseModel):
    """The base of all updates.

    `strategies` are the selection rules whose rows the update learns from, its default first; where
    it is empty, the update learns from the rows of any rule.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: str
    strategies: ClassVar[tuple[str, ...]] = ()

    def weights(self, scores_PK: Scores) -> Scores | None:
        """Return (P, K) weights of the responses' log-probabilities in the loss; None: all 1."""
        del scores_PK
        return None

    def check_strategy(self, strategy: str) -> None:
        """Refuse a selection rule whose rows the update cannot learn from, with InputError."""
        if self.strategies and strategy not in self.strategies:
            raise InputError(
                "select.strategy",
                f"{strategy} does not go with train.update {self.kind}",
                f"use {' or '.join(self.strategies)}",
            )

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Return the bounds of the clipped ratio to the policy that drew; None without a ratio."""
        return None


class _Ratio(_Update):
    """An update by the ratio of the policy to the one that drew, over `train.epochs` passes."""

    clip: float | None = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="the ratio is clipped to 1 - clip … 1 + clip, as in PPO; null: not clipped",
    )
    clip_high: float | None = Field(
        default=None, gt=0, description="upper bound, 1 + clip_high (clip-higher); default: clip"
    )

    @property
    def bounds(self) -> tuple[float, float] | None:
        if self.clip is None:
            return 0.0, float("inf") if self.clip_high is None else 1 + self.clip_high
        return 1 - self.clip, 1 + (self.clip if self.clip_high is None else self.clip_high)


class SftUpdate(_Update):
    """Maximum likelihood of the selected responses, as in RAFT (arXiv 2304.06767)."""

    kind: Literal["sft"] = "sft"


class WeightedUpdate(_Update):
    """Maximum likelihood of every response, with a weight computed from its score."""

    kind: Literal["weighted"] = "weighted"
    strategies: ClassVar[tuple[str, ...]] = ("all",)
    weight: Literal["exponential", "standardized"] = Field(
        default="exponential",
        description="softmax of a prompt's scores, or standardised among them and floored at 0",
    )
    temperature: float = Field(
        default=1.0, gt=0, description="exponential: divides the scores; towards 0 only the best"
    )

    def weights(self, scores_PK: Scores) -> Scores | None:
        from raft.updates.weighted import exponential, standardized

        if self.weight == "exponential":
            return exponential(scores_PK, self.temperature)
        return standardized(scores_PK).clip(min=0)


class RaftPlusPlusUpdate(_Ratio):
    """The selected responses, by the clipped ratio: RAFT++ (arXiv 2504.11343)."""

    kind: Literal["raft_plus_plus"] = "raft_plus_plus"


class ReinforceUpdate(_Ratio):
    """Every response, weighted by its advantage, by the clipped ratio."""

    kind: Literal["reinforce"] = "reinforce"
    strategies: ClassVar[tuple[str, ...]] = ("all",)
    advantage: Literal["leave_one_out", "standardized"] = Field(
        default="leave_one_out",
        description="score less the mean of the prompt's others, or standardised among them",
    )

    def weights(self, scores_PK: Scores) -> Scores | None:
        from raft.updates.reinforce import leave_one_out
        from raft.updates.weighted import standardized

        of = leave_one_out if self.advantage == "leave_one_out" else standardized
        return of(scores_PK)


class DpoUpdate(_Update):
    """DPO: the better of two responses against the worse (arXiv 2305.18290)."""

    kind: Literal["dpo"] = "dpo"
    strategies: ClassVar[tuple[str, ...]] = PAIRED
    beta: float = Field(
        default=0.1,
        gt=0,
        description="DPO's β: how strongly the loss keeps the policy at its reference",
    )
    reference: Literal["previous", "start"] = Field(
        default="previous", description="the policy before the update, or the starting one"
    )


def of_kind(value: object) -> object:
    """Return the section `{kind: value}` for a kind given as a string, anything else unchanged."""
    return {"kind": value} if isinstance(value, str) else value


UpdateConfig: TypeAlias = Annotated[
    Annotated[
        SftUpdate | WeightedUpdate | RaftPlusPlusUpdate | ReinforceUpdate | DpoUpdate,
        Field(discriminator="kind"),
    ],
    BeforeValidator(of_kind),
]
_OWN_STRATEGY = {
    one.model_fields["kind"].default: one.strategies[0]
    for one in (WeightedUpdate, ReinforceUpdate, DpoUpdate)
}


def own_strategy(update: object) -> str | None:
    """Return the default selection rule of an update, given as its kind or its section in a config.

    None where that is the default of all runs, or where the update is not known.
    """
    kind = update.get("kind") if isinstance(update, dict) else update
    return _OWN_STRATEGY.get(kind) if isinstance(kind, str) else None
