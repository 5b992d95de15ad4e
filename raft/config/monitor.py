"""The sections `monitor` and `log` of a run's config.

They say what is measured, which limits warn of trouble or stop the run, and where metrics go.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["LogConfig", "MonitorConfig"]

Guard = Literal[
    "gold_patience",
    "kl_budget",
    "ngram_jump",
    "max_duplicate_share",
    "min_distinct_2",
    "max_length_growth",
    "max_perplexity_growth",
]


class LogConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    sinks: list[Literal["tensorboard", "wandb"]] = Field(
        default=[], description="where metrics go besides metrics.jsonl"
    )
    wandb_project: str = Field(default="raft", description="project of sink wandb")


class MonitorConfig(BaseModel):
    """What is measured, and the limits of the guards in `raft.monitor.guards`.

    A guard whose limit is None or False is off.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kl: bool = Field(
        default=True,
        description="measure the KL to the starting policy on the held-out samples; takes its own "
        "process and two forward passes per evaluation",
    )
    reference_text: str | None = Field(
        default=None,
        description="file of text that a good policy finds likely; measure the perplexity of its "
        "first 64 documents (read as prompts.path, split by prompts.separator)",
    )
    stop_on: list[Guard] = Field(
        default=[], description="guards that end the run; others only warn. The best policy is kept"
    )
    idle_patience: int | None = Field(
        default=3,
        ge=1,
        description="iterations in a row that may learn nothing, since nothing can be selected or "
        "equal scores have weight 0; then the run ends, whatever stop_on says",
    )
    gold_patience: int | None = Field(
        default=2,
        ge=1,
        description="evaluations for which gold (without one, the win rate) may stay below its "
        "peak by more than the intervals",
    )
    kl_budget: float | None = Field(
        default=None,
        gt=0,
        description="largest KL to the starting policy (eval/kl_k1), nats per response",
    )
    ngram_jump: bool = Field(
        default=True,
        description="warn of a word, phrase or symbol that spreads, unless gold rises with it",
    )
    max_duplicate_share: float | None = Field(
        default=0.5, gt=0, lt=1, description="largest share of responses that equal another one"
    )
    min_distinct_2: float | None = Field(
        default=0.05, gt=0, lt=1, description="smallest share of distinct word pairs among all"
    )
    max_length_growth: float | None = Field(
        default=2.0, gt=1, description="largest mean length in tokens, as a multiple of the first"
    )
    max_perplexity_growth: float | None = Field(
        default=2.0,
        gt=1,
        description="largest perplexity of reference_text, as a multiple of the first",
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
