"""How responses are drawn: the section `sampling` of a run's config."""

from __future__ import annotations

from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass

from raft.adaptive import Adaptive
from rewards.spec import CombineSpec, RewardSpec
from rollout.errors import InputError
from rollout.types import Sampling, setting

_STRICT = ConfigDict(extra="forbid")


@pydantic_dataclass(frozen=True, config=_STRICT)
class AdaptiveConfig(Adaptive):
    """`Adaptive` itself, checked when it is read."""


@pydantic_dataclass(frozen=True, config=_STRICT)
class SamplingConfig(Sampling):
    """`Sampling` itself, checked when it is read."""

    adaptive: AdaptiveConfig | None = setting(None, "draw in waves; default: k at once")

    @property
    def fewest(self) -> int:
        """How many samples every prompt has."""
        return self.k if self.adaptive is None else self.adaptive.first

    @model_validator(mode="after")
    def _greedy_is_single(self) -> SamplingConfig:
        if self.temperature == 0 and self.k > 1:
            raise ValueError(f"temperature 0 draws the same response k={self.k} times; set k: 1")
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens {self.min_new_tokens} is more than max_new_tokens "
                f"{self.max_new_tokens}; lower it"
            )
        return self

    def check_waves(self, reward: RewardSpec) -> None:
        """Raise InputError where samples cannot be drawn in waves and scored by `reward`."""
        if (adaptive := self.adaptive) is None:
            return
        if not self.seed_per_prompt:
            raise InputError(
                "sampling.seed_per_prompt",
                "is false, and adaptive needs samples that are the same in whatever wave they are "
                "drawn",
                "set it to true",
            )
        if adaptive.first > self.k:
            raise InputError(
                "sampling.adaptive.first",
                f"{adaptive.first} is more than k={self.k}, which a prompt may have on average",
                "lower it",
            )
        if adaptive.most is not None and adaptive.most < self.k:
            raise InputError(
                "sampling.adaptive.most",
                f"{adaptive.most} is less than k={self.k}, which a prompt may have on average",
                "raise it",
            )
        if _compares_responses(reward):
            raise InputError(
                "sampling.adaptive",
                "the reward compares a prompt's responses (a judge, or normalise: group or rank), "
                "which leaves scores of different waves without a common measure",
                "leave it out",
            )


def _compares_responses(reward: RewardSpec) -> bool:
    """Whether a response's score depends on the prompt's other responses."""
    parts = reward.parts()
    members = [member for one in parts if isinstance(one, CombineSpec) for member in one.members]
    return any(part.kind == "pairwise" for part in parts) or any(
        member.normalise in ("group", "rank") for member in members
    )
