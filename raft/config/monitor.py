"""The `monitor` section of a run's config: what is measured, and which limits warn or stop."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["MonitorConfig"]

Guard = Literal[
    "gold_patience",
    "kl_budget",
    "ngram_jump",
    "max_duplicate_share",
    "min_distinct_2",
    "max_length_growth",
    "max_perplexity_growth",
]


class MonitorConfig(BaseModel):
    """The guards' limits: None (or False) is off. `raft.monitor.guards` judges by this section."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kl: bool = Field(
        default=True,
        description="KL to the starting policy on the held-out samples; a process of its own, two "
        "forward passes per evaluation",
    )
    reference_text: str | None = Field(
        default=None,
        description="text that a good policy finds likely: perplexity of its first 64 documents "
        "(a file as prompts.path takes, parted by prompts.separator)",
    )
    stop_on: list[Guard] = Field(
        default=[], description="guards that end the run; the others warn. The best policy is kept"
    )
    gold_patience: int | None = Field(
        default=2,
        ge=1,
        description="evaluations that gold (without one: win rate) may be past its peak, beyond "
        "the intervals",
    )
    kl_budget: float | None = Field(
        default=None, gt=0, description="nats per response from the starting policy (eval/kl_k1)"
    )
    ngram_jump: bool = Field(
        default=True,
        description="a word, phrase or symbol that spreads over the responses, unless gold agrees",
    )
    max_duplicate_share: float | None = Field(
        default=0.5, gt=0, lt=1, description="of responses that equal another one"
    )
    min_distinct_2: float | None = Field(
        default=0.05, gt=0, lt=1, description="share of distinct word pairs among all"
    )
    max_length_growth: float | None = Field(
        default=2.0, gt=1, description="mean length in tokens, as a multiple of the start's"
    )
    max_perplexity_growth: float | None = Field(
        default=2.0, gt=1, description="of reference_text, as a multiple of the start's"
    )

    @property
    def measures_kl(self) -> bool:
        return self.kl or self.kl_budget is not None

    @model_validator(mode="after")
    def _stops_can_happen(self) -> MonitorConfig:
        for guard in self.stop_on:
            if not getattr(self, guard):
                raise ValueError(f"stop_on: {guard} is off; give monitor.{guard} a value")
        if "max_perplexity_growth" in self.stop_on and self.reference_text is None:
            raise ValueError(
                "stop_on: max_perplexity_growth needs monitor.reference_text, the file to measure"
            )
        return self
