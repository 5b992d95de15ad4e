"""The sections `select` and `control` of a run's config: which responses train the policy."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raft.selection.filters import Filters
from raft.selection.rules import STRATEGIES


class ControlConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["random"] = Field(
        default="random", description="each prompt's scores are dealt at random to its responses"
    )
    every: int = Field(
        default=1, ge=1, description="iterations of the run for one of the control, on its prompts"
    )


class SelectConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    strategy: str = Field(
        default="best_of_k",
        description=f"{', '.join(STRATEGIES)}; with train.update weighted or reinforce all, "
        "with dpo best_and_worst",
    )
    m: int | None = Field(default=None, ge=1, description="top_m: rows to select per prompt")
    fraction: float | None = Field(
        default=None, gt=0, le=1, description="global_top_fraction: share to select"
    )
    minimum: float | None = Field(
        default=None,
        description="old name of min_score, for threshold",
        json_schema_extra={"hidden": True},
    )
    temperature: float | None = Field(
        default=None, gt=0, description="soft: in the reward's unit; small ones select the best"
    )
    mean: float | None = Field(
        default=None, gt=0, description="poisson: samples looked at beyond the first, on average"
    )
    per_prompt: int | None = Field(
        default=None, ge=1, description="threshold: most rows to select per prompt"
    )
    min_gap: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="all_pairs: least difference of the two scores",
    )
    max_pairs: int | None = Field(
        default=None, ge=1, description="all_pairs: most pairs of a prompt, widest gaps first"
    )
    shuffle: bool = Field(
        default=False,
        description="deal each prompt's scores at random among its responses before: what any rule "
        "and update does without the reward (see control)",
    )
    reject_pattern: str | None = Field(
        default=None, description="responses that match it are never selected"
    )
    min_chars: int = Field(default=0, ge=0, description="shorter responses are never selected")
    max_chars: int | None = Field(
        default=None, ge=1, description="longer responses are never selected"
    )
    min_score: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="lowest score that may be selected; threshold needs it",
    )
    min_spread: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="skip prompts whose scores differ by less",
    )
    allow_truncated: bool = Field(default=True, description="select responses that were cut, too")
    unique: bool = Field(default=False, description="select only one of identical responses")

    def arguments(self) -> dict[str, float]:
        """Return the settings of strategies, by the names of parameters in `raft.selection.rules`.

        Settings that are not given are not included; `min_score` is only where the strategy is
        threshold.
        """
        given = {
            name: getattr(self, name)
            for name in (
                "m",
                "fraction",
                "temperature",
                "mean",
                "per_prompt",
                "min_gap",
                "max_pairs",
            )
        }
        if self.strategy == "threshold":
            given["min_score"] = self.min_score if self.minimum is None else self.minimum
        else:
            given["minimum"] = self.minimum  # refused later: no other strategy takes it
        return {key: value for key, value in given.items() if value is not None}

    def filters(self) -> Filters:
        """Return the filters that make samples unselectable before the strategy is applied."""
        # for threshold, min_score is an argument: samples below it do not count as filtered
        is_argument = self.strategy == "threshold" and self.minimum is None
        return {
            "reject_pattern": self.reject_pattern,
            "min_chars": self.min_chars,
            "max_chars": self.max_chars,
            "min_score": None if is_argument else self.min_score,
            "min_spread": self.min_spread,
            "allow_truncated": self.allow_truncated,
            "unique": self.unique,
        }

    @model_validator(mode="after")
    def _lengths_leave_room(self) -> SelectConfig:
        if self.max_chars is not None and self.max_chars < self.min_chars:
            raise ValueError(
                f"max_chars {self.max_chars} is less than min_chars {self.min_chars}; raise it"
            )
        return self

    @model_validator(mode="after")
    def _pattern_compiles(self) -> SelectConfig:
        if self.reject_pattern is not None:
            try:
                re.compile(self.reject_pattern)
            except re.error as error:
                raise ValueError(f"reject_pattern is not a regular expression ({error})") from error
        return self
