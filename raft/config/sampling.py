"""How responses are drawn: the section `sampling` of a run's config."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass

from raft.adaptive import Adaptive
from raft.early_rejection import EarlyRejection
from rewards.spec import CombineSpec, RewardSpec
from rollout.errors import InputError
from rollout.types import Sampling, setting

_STRICT = ConfigDict(extra="forbid")


@pydantic_dataclass(frozen=True, config=_STRICT)
class AdaptiveConfig(Adaptive):
    """The settings of `Adaptive`, validated by pydantic when a config is read."""


@pydantic_dataclass(frozen=True, config=_STRICT)
class EarlyRejectionConfig(EarlyRejection):
    """The settings of `EarlyRejection`, validated by pydantic when a config is read."""


@pydantic_dataclass(frozen=True, config=_STRICT)
class SamplingConfig(Sampling):
    """The settings of `Sampling` and how many of the k samples are drawn, validated by pydantic."""

    adaptive: AdaptiveConfig | None = setting(None, "draw in waves; default: k at once")
    early_rejection: EarlyRejectionConfig | None = setting(
        None, "of k beginnings draw only the best to their end; default: all"
    )

    @property
    def fewest(self) -> int:
        """Return the least number of finished samples that a prompt can have."""
        return self.whole if self.adaptive is None else self.adaptive.first

    @property
    def fewest_key(self) -> str:
        own = {"adaptive": "adaptive.first", "early_rejection": "early_rejection.keep"}
        return f"sampling.{'k' if self.way is None else own[self.way]}"

    @property
    def whole(self) -> int:
        """Return the most finished samples of a prompt, on average over the prompts.

        Samples that are rejected early are not counted.
        """
        return self.k if self.early_rejection is None else self.early_rejection.keep

    @property
    def begun(self) -> int:
        """Return the most tokens in the beginnings of one prompt's samples; 0 without rejection."""
        return 0 if self.early_rejection is None else self.k * self.early_rejection.tokens

    @property
    def way(self) -> Literal["adaptive", "early_rejection"] | None:
        """Return the setting by which scores decide how many samples are drawn; None without."""
        if self.adaptive is not None:
            return "adaptive"
        return None if self.early_rejection is None else "early_rejection"

    @property
    def fixed(self) -> SamplingConfig:
        """Return the same settings for exactly K finished samples of each prompt, drawn at once."""
        return replace(self, adaptive=None, early_rejection=None)

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

    def check(self, reward: RewardSpec) -> None:
        """Check that drawing in waves or rejecting early fits these settings and `reward`.

        Raises InputError that names the key.
        """
        adaptive, early = self.adaptive, self.early_rejection
        if (way := self.way) is None:
            return
        if adaptive is not None and early is not None:
            raise InputError(
                "sampling.early_rejection",
                "says how many of k go on, and adaptive how many are drawn",
                "leave one of them out",
            )
        if not self.seed_per_prompt:
            raise InputError(
                "sampling.seed_per_prompt",
                f"is false, and {way} needs samples that are the same whenever they are drawn",
                "set it to true",
            )
        if _compares_responses(reward):
            raise InputError(
                f"sampling.{way}",
                "the reward compares a prompt's responses (a judge, or normalise: group or rank), "
                "which leaves scores of different waves, and of beginnings, no common measure",
                "leave it out",
            )
        if early is not None:
            self._check_early(early)
        if adaptive is not None:
            self._check_adaptive(adaptive)

    def _check_early(self, early: EarlyRejection) -> None:
        if early.keep > self.k:
            raise InputError(
                "sampling.early_rejection.keep", f"{early.keep} is more than k={self.k}", "lower it"
            )
        if early.tokens >= self.max_new_tokens:
            raise InputError(
                "sampling.early_rejection.tokens",
                f"{early.tokens} is not less than max_new_tokens={self.max_new_tokens}",
                "lower it",
            )

    def _check_adaptive(self, adaptive: Adaptive) -> None:
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


def _compares_responses(reward: RewardSpec) -> bool:
    """Return whether a response's score depends on the prompt's other responses."""
    parts = reward.parts()
    members = [member for one in parts if isinstance(one, CombineSpec) for member in one.members]
    return any(part.kind == "pairwise" for part in parts) or any(
        member.normalise in ("group", "rank") for member in members
    )
