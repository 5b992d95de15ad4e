"""The `reward` and `gold` sections: one form for every kind of reward, members included.

A key that the kind has no use for is refused when the config is read; `rewards.build` knows which.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rollout.errors import InputError

# of members, which a combination adds up; they are no settings of the member itself
_OF_MEMBERS = {"weight", "normalise", "name"}


class RewardConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["function", "model", "pairwise", "combine", "remote"]
    function: str | None = Field(
        default=None, description="function: built-in name, module:attr or file.py:attr"
    )
    arguments: dict[str, Any] = {}
    model: str | None = Field(
        default=None, description="model, pairwise: folder or hub name; remote: a name to send"
    )
    family: Literal["classifier", "armorm", "grm"] | None = Field(
        default=None, description="default: found from the files"
    )
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    format: str | None = Field(
        default=None, description="chat, hh or plain; default: the model's own"
    )
    bos: Literal["single", "double", "none"] | None = None
    separator: str | None = Field(default=None, description="between the turns of format hh")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_length: int | None = Field(default=None, ge=1, description="tokens; longer ones are cut")
    truncation_side: Literal["left", "right"] | None = None
    batch_tokens: int | None = Field(default=None, ge=1)
    tournament: str | None = Field(
        default=None, description="pairwise: knockout (default), round_robin, swiss, …"
    )
    score: str | None = Field(default=None, description="pairwise: how a round robin is scored")
    rounds: int | None = Field(default=None, ge=1, description="pairwise: of a swiss tournament")
    budget: int | None = Field(default=None, ge=1, description="pairwise: comparisons per prompt")
    tie: float | None = Field(default=None, ge=0, lt=0.5)
    temperature: float | None = Field(default=None, gt=0, description="pairwise: of the verdicts")
    members: list[MemberConfig] = Field(default=[], description="combine: rewards, each weighted")
    reduce: Literal["sum", "mean", "min", "mean_minus_std"] | None = None
    std_weight: float | None = Field(default=None, description="combine: of mean_minus_std")
    length_penalty: dict[str, Any] | None = Field(
        default=None, description="combine: {weight, above, per: word|char|token}"
    )
    debias: dict[str, Any] | None = Field(
        default=None, description="combine: {reference: scored file} or {penalty, mean, std, scale}"
    )
    url: str | None = None
    protocol: str | None = Field(
        default=None, description="remote: raft (default), openrlhf, vllm-classify, vllm-pooling"
    )
    token_env: str | None = Field(
        default=None, description="remote: environment variable that holds the bearer token"
    )
    timeout: float | None = Field(default=None, gt=0, description="remote: seconds per request")
    concurrency: int | None = Field(default=None, ge=1, description="remote: requests in flight")
    batch_size: int | None = Field(default=None, ge=1, description="remote: texts per request")
    retries: int | None = Field(default=None, ge=0)
    tokenizer: str | None = Field(default=None, description="remote: for text protocols")
    non_finite: Literal["raise", "missing"] = "raise"

    def settings(self) -> dict[str, Any]:
        """What was said, as `rewards.build.build_reward` takes it; members too."""
        given = {
            name: value
            for name, value in self
            if value not in (None, "auto", [], {}) and name not in ("members", "non_finite")
        }
        if self.non_finite != "raise":
            given["non_finite"] = self.non_finite
        if self.members:
            given["members"] = [member.settings() for member in self.members]
        return given

    def everything(self) -> list[RewardConfig]:
        """This reward and, of a combination, all that it is made of."""
        return [self, *(part for member in self.members for part in member.everything())]

    @model_validator(mode="after")
    def _kind_knows_its_settings(self) -> RewardConfig:
        from rewards.build import check_reward

        own = {key: value for key, value in self.settings().items() if key not in _OF_MEMBERS}
        try:
            check_reward(**own)
        except InputError as error:
            raise ValueError(str(error)) from error
        return self


class MemberConfig(RewardConfig):
    """One reward of a combination."""

    weight: float | None = Field(default=None, description="default: 1")
    normalise: str | dict[str, Any] | None = Field(
        default=None,
        description="none, group, rank, sigmoid, {mean, std}, {from: scored file, column: NAME}",
    )
    name: str | None = None


RewardConfig.model_rebuild()
