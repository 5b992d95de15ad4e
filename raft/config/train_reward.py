"""The config of `raft train-reward`: its keys, and its reader from a YAML file and overrides.

Unknown keys are errors. A key that is not given takes the recipe's own value, which
`raft.reward_training.recipes` fills in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raft.config.load import place, read_mapping, validated
from rewards.training.settings import (
    GatingSettings,
    GRMSettings,
    Layout,
    LoraSettings,
    LossSettings,
)
from rewards.types import Bos, Eos, Format, TruncationSide
from rollout.errors import InputError

__all__ = [
    "TrainRewardConfig",
    "load_train_config",
    "make_train_config",
]

Recipe = Literal["bradley_terry", "hh", "pairwise", "grm", "armorm"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def given(self) -> dict[str, Any]:
        """Return the keys that the config sets, without those that it leaves to the recipe."""
        return {key: getattr(self, key) for key in self.model_fields_set}


class HeldOutConfig(_Section):
    share: float | None = Field(default=None, gt=0, lt=1, description="of the pairs, by prompt")
    count: int | None = Field(default=None, ge=1, description="so many pairs, by prompt")
    last: int | None = Field(default=None, ge=1, description="the last so many pairs, as they come")
    data: list[str | dict[str, object]] | None = Field(
        default=None, description="sources of their own; `last` takes the last pairs of these"
    )

    @model_validator(mode="after")
    def _one_way(self) -> HeldOutConfig:
        if sum(value is not None for value in (self.share, self.count, self.last)) > 1:
            raise ValueError("share, count and last exclude each other: give one of them")
        if self.data is not None and (self.share is not None or self.count is not None):
            raise ValueError("data are held out whole, or their last pairs: leave share, count out")
        return self


class UpdateConfig(_Section):
    learning_rate: float | None = Field(default=None, gt=0, description="at its highest")
    epochs: float | None = Field(default=None, gt=0, description="passes over the pairs")
    batch_size: int | None = Field(default=None, ge=1, description="pairs per optimizer step")
    micro_tokens: int | None = Field(
        default=None, ge=1, description="tokens per forward pass; unset: 2048, on a GPU 16384"
    )
    schedule: Literal["constant", "linear", "cosine"] | None = Field(
        default=None, description="of the learning rate"
    )
    warmup_ratio: float | None = Field(default=None, ge=0, lt=1, description="share of all steps")
    warmup_steps: int | None = Field(default=None, ge=0, description="the same as a number")
    weight_decay: float | None = Field(default=None, ge=0, description="of AdamW")
    max_grad_norm: float | None = Field(default=None, ge=0, description="0: gradients as they are")
    optimizer: str | None = Field(default=None, description="a name of transformers' `optim`")
    gradient_checkpointing: bool | None = Field(
        default=None, description="less memory for a third more time"
    )
    dropout: bool | None = Field(default=None, description="as in the model's config; else off")
    dtype: Literal["auto", "float32", "bfloat16"] | None = Field(
        default=None, description="of the weights"
    )
    lora: LoraSettings | None = None
    layout: Layout | None = Field(default=None, description="unset: packed where the model can")
    fsdp: bool | None = Field(
        default=None, description="shard the model over the processes of torchrun"
    )

    @model_validator(mode="after")
    def _one_warmup(self) -> UpdateConfig:
        if self.warmup_ratio is not None and self.warmup_steps is not None:
            raise ValueError("warmup_ratio and warmup_steps exclude each other: give one of them")
        return self


class SFTConfig(UpdateConfig):
    chunk: int = Field(default=1024, ge=2, description="tokens; batch_size counts these")
    rest_of_test: bool = Field(
        default=False, description="also on what eval.last leaves of eval.data"
    )


class PairwiseConfig(_Section):
    orders: Literal["one", "both"] = Field(default="one", description="one random order, or both")


class ArmoRMConfig(_Section):
    rated: list[str | dict[str, object]] = Field(description="sources of rated responses")
    attributes: list[str] | None = Field(default=None, description="names and order")
    leave_out_unlabelled: bool = Field(
        default=False, description="skip attributes that no response is rated by"
    )
    verbosity: str | None = Field(
        default="helpsteer-verbosity", description="attribute that the others are freed of"
    )
    threshold: float | None = Field(default=None, description="unset: the published 0.03")
    validation_share: float = Field(
        default=0.2, gt=0, lt=1, description="of the rated responses, to choose the ridge by"
    )
    feature_dtype: Literal["float32", "float16"] = Field(
        default="float32", description="of the stored hidden states"
    )
    batch_tokens: int | None = Field(default=None, ge=1, description="tokens per forward pass")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="of the weights"
    )
    gating: GatingSettings = GatingSettings()


class TrainRewardConfig(_Section):
    """The training of one reward model; `describe_keys(TrainRewardConfig)` lists every key."""

    run_dir: str = Field(description="folder of the training; resumed where it exists")
    seed: int = Field(default=0, ge=0, description="of heads, orders and held-out pairs")
    recipe: Recipe = Field(default="bradley_terry", description="how, and to which family")
    model: str = Field(description="folder or hub name of the model to start from")
    data: list[str | dict[str, object]] = Field(
        min_length=1,
        description="sources of pairs: paths, or {path, format, split, columns, source, where, "
        "every, fraction, limit, pairs, by, diverging_prompts, ties, duplicates, prefix}",
    )
    on_bad_row: Literal["stop", "skip"] = Field(
        default="stop", description="skip and count rows that cannot be read"
    )
    eval: HeldOutConfig = HeldOutConfig(share=0.1)
    format: Format | None = Field(default=None, description="how a conversation becomes text")
    bos: Bos | None = Field(default=None, description="number of BOS tokens")
    eos: Eos | None = Field(default=None, description="what a row ends in, beside its template")
    max_length: int | None = Field(default=None, ge=2, description="tokens of one side")
    truncation_side: TruncationSide | None = Field(default=None, description="where rows are cut")
    over_long: Literal["cut", "drop"] | None = Field(
        default=None, description="what becomes of pairs longer than max_length"
    )
    separator: str | None = Field(default=None, description="between messages, format hh_hash")
    chat_template: str | None = Field(
        default=None, description="a file, or the template itself, in place of the tokenizer's"
    )
    chat_template_kwargs: dict[str, object] | None = Field(
        default=None, description="variables of the chat template"
    )
    train: UpdateConfig = UpdateConfig()
    loss: LossSettings | None = None
    sft: SFTConfig | Literal[False] | None = Field(
        default=None, description="hh: the first stage; false leaves it out"
    )
    pairwise: PairwiseConfig | None = None
    grm: GRMSettings | None = None
    armorm: ArmoRMConfig | None = None
    save_steps: int | None = Field(default=None, ge=1, description="steps between checkpoints")
    eval_steps: int | None = Field(default=None, ge=1, description="steps between evaluations")
    log_steps: int | None = Field(default=None, ge=1, description="steps between rows of metrics")

    @model_validator(mode="after")
    def _sections_fit_the_recipe(self) -> TrainRewardConfig:
        owners = {
            "loss": ("bradley_terry", "hh"),
            "sft": ("hh",),
            "pairwise": ("pairwise",),
            "grm": ("grm",),
            "armorm": ("armorm",),
            "format": ("bradley_terry", "hh", "grm"),
            "bos": ("bradley_terry", "hh", "grm"),
            "eos": ("bradley_terry", "hh", "grm"),
            "truncation_side": ("bradley_terry", "hh", "grm"),
            "over_long": ("bradley_terry", "hh", "grm"),
            "separator": ("bradley_terry", "hh"),
        }
        for key, recipes in owners.items():
            if getattr(self, key) is not None and self.recipe not in recipes:
                raise ValueError(
                    f"{key} means nothing to recipe {self.recipe}, only to {', '.join(recipes)}: "
                    "leave it out"
                )
        if self.recipe == "armorm" and self.armorm is None:
            raise ValueError("recipe armorm needs the section armorm with rated: its rated data")
        if self.recipe == "armorm" and self.train.model_fields_set:
            raise ValueError("recipe armorm has no train section: see armorm.gating")
        return self

    @model_validator(mode="after")
    def _rest_has_a_source(self) -> TrainRewardConfig:
        rest = isinstance(self.sft, SFTConfig) and self.sft.rest_of_test
        if rest and (self.eval.data is None or self.eval.last is None):
            raise ValueError("sft.rest_of_test needs eval.data and eval.last, which leave a rest")
        return self


def load_train_config(
    source: str | Path | Mapping[str, object], overrides: Sequence[str] = ()
) -> TrainRewardConfig:
    """Read a YAML file, or its keys as a mapping, and apply `key.sub=value` overrides (YAML).

    Raises:
        InputError: the file is missing or no YAML, a key is unknown or out of range, or keys
            contradict each other; one line that names the key and the file.
    """
    where, data = place(source), read_mapping(source, overrides, examples="configs/reward/")
    if {"policy", "prompts"} & data.keys():
        raise InputError(where, f"is a run, and trains no reward model: raft run {where}")
    return make_train_config(data, where)


def make_train_config(data: Mapping[str, object], where: str = "config") -> TrainRewardConfig:
    """Validate a mapping of keys; `where` names it in messages. Raises InputError."""
    return validated(TrainRewardConfig, data, where, see="raft train-reward --keys")
