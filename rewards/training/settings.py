"""How a reward model is trained. Sections of a config are defined here, and nowhere else.

Nothing heavy is imported: `raft train-reward --check` needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as section

from rewards.types import Bos, Eos, Format, TruncationSide
from rollout.data.bad_rows import OnBadRow

__all__ = [
    "GRMSettings",
    "GatingSettings",
    "Layout",
    "LoraSettings",
    "LossSettings",
    "ReadingSettings",
    "Regulariser",
    "TrainingSettings",
]

Layout = Literal["packed", "padded"]
Regulariser = Literal["sft", "sft_no_logsigmoid", "dpo_free", "dpo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingSettings:
    """How the model is to read conversations, in training and ever after.

    None: as `load_reward` would find it in the starting model's files. `chat_template` is for a
    tokenizer that has none, or to replace its own.
    """

    format: Format | None = None
    bos: Bos | None = None
    eos: Eos | None = None
    max_length: int | None = None
    truncation_side: TruncationSide = "left"
    separator: str = ""
    over_long: Literal["cut", "drop"] = "cut"
    chat_template: str | None = None
    chat_template_kwargs: dict[str, object] | None = None
    on_bad_row: OnBadRow = "stop"


_STRICT = ConfigDict(extra="forbid")


@section(frozen=True, slots=True, kw_only=True, config=_STRICT)
class LossSettings:
    """Weights of the terms of `losses.pair_loss`; a section of the config as it is."""

    margin: float = Field(default=0.0, ge=0, description="times the pairs' own margins")
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    center: float = Field(default=0.0, ge=0, description="weight of (chosen + rejected)²")
    positive_weight: float = Field(default=0.0, ge=0, description="weight of −log σ(chosen)")


@section(frozen=True, slots=True, kw_only=True, config=_STRICT)
class LoraSettings:
    """Low-rank adapters in place of all weights; a section of the config as it is."""

    r: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"


@section(frozen=True, slots=True, kw_only=True, config=_STRICT)
class GRMSettings:
    """Defaults of the published GRM models; a section of the config as it is.

    Args:
        alpha: weight of the regulariser; 0 leaves Bradley-Terry on the value head.
        regulariser: `dpo_free` is DPO without a reference model.
        beta: of the regulariser's sigmoid.
        head_layers: hidden layers of the value head; 0 is one linear layer.
        head_neurons, head_dropout: width of those; share of the states dropped before the head
            while training.
    """

    alpha: float = Field(default=0.01, ge=0, lt=1, description="weight of the regulariser")
    regulariser: Regulariser = "sft"
    beta: float = Field(default=0.1, gt=0)
    head_layers: int = Field(default=1, ge=0)
    head_neurons: int = Field(default=1024, ge=1)
    head_dropout: float = Field(default=0.1, ge=0, lt=1)


@section(frozen=True, slots=True, kw_only=True, config=_STRICT)
class GatingSettings:
    """Defaults of ArmoRM's released second stage; a section of the config as it is."""

    hidden_dim: int = Field(default=1024, ge=1)
    n_hidden: int = Field(default=3, ge=0)
    temperature: float = Field(default=10.0, gt=0)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    steps: int = Field(default=2000, ge=1)
    batch_size: int = Field(default=1024, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """Optimisation, batches, checkpoints.

    Args:
        batch_size: examples (pairs) of one optimizer step.
        micro_tokens: tokens of one forward pass, as many as memory allows; None: 2,048 on a CPU,
            16,384 on a GPU. It is halved when memory runs out.
        warmup_ratio: share of the steps over which the rate rises, or their number from 1 on.
        dropout: leave the model's dropout as it is; else all of it is off.
        dtype: "auto": float32 on a CPU; on a GPU float32 weights under bfloat16 arithmetic, or
            frozen bfloat16 weights under LoRA.
        save_steps, eval_steps: None: ten times in all, but not more often than every 50 steps.
        log_steps: None: two hundred times in all.
    """

    learning_rate: float = 1e-5
    epochs: float = 1
    batch_size: int = 64
    micro_tokens: int | None = None
    schedule: str = "linear"
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    optimizer: str = "adamw_torch"
    gradient_checkpointing: bool = False
    dropout: bool = False
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    lora: LoraSettings | None = None
    layout: Layout | None = None
    log_steps: int | None = None
    save_steps: int | None = None
    eval_steps: int | None = None
    seed: int = 0
