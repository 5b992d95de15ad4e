"""Define how a reward model is trained. Sections of a config are defined here, and nowhere else.

Nothing heavy is imported: `raft train-reward --check` needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as section

from rewards.types import Bos, Eos, Format, TruncationSide
from rollout.data.bad_rows import OnBadRow

__all__ = [
    "GRM_READING",
    "HH_READING",
    "HH_SFT",
    "HH_TRAINING",
    "PUBLISHED_FULL",
    "PUBLISHED_LORA",
    "PUBLISHED_PAIRWISE",
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
    """How the model is to read conversations, in training and whenever it is used.

    None leaves a setting as `load_reward` would find it in the starting model's files.
    `chat_template` is for a tokenizer that has none, or to replace its own.
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
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="chance that a label is wrong"
    )
    center: float = Field(default=0.0, ge=0, description="weight of (chosen + rejected)²")
    positive_weight: float = Field(default=0.0, ge=0, description="weight of −log σ(chosen)")


@section(frozen=True, slots=True, kw_only=True, config=_STRICT)
class LoraSettings:
    """Low-rank adapters in place of all weights; a section of the config as it is."""

    r: int = Field(default=16, ge=1, description="rank of the adapters")
    alpha: int = Field(default=32, ge=1, description="adapters are scaled by alpha / r")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of inputs dropped")
    target_modules: str | list[str] = Field(
        default="all-linear", description="names of the layers that get adapters"
    )


@section(frozen=True, slots=True, kw_only=True, config=_STRICT)
class GRMSettings:
    """Defaults of the published GRM models; a section of the config as it is.

    With `alpha` 0 there is no regulariser, only Bradley–Terry on the value head; with `head_layers`
    0 the head is one linear layer.
    """

    alpha: float = Field(default=0.01, ge=0, lt=1, description="weight of the regulariser")
    regulariser: Regulariser = Field(default="sft", description="dpo_free: DPO without reference")
    beta: float = Field(default=0.1, gt=0, description="of the regulariser's sigmoid")
    head_layers: int = Field(default=1, ge=0, description="hidden layers of the value head")
    head_neurons: int = Field(default=1024, ge=1, description="width of these")
    head_dropout: float = Field(default=0.1, ge=0, lt=1, description="states dropped before it")


@section(frozen=True, slots=True, kw_only=True, config=_STRICT)
class GatingSettings:
    """Defaults of ArmoRM's released second stage; a section of the config as it is."""

    hidden_dim: int = Field(default=1024, ge=1, description="width of the hidden layers")
    n_hidden: int = Field(default=3, ge=0, description="number of hidden layers")
    temperature: float = Field(default=10.0, gt=0, description="divides the gate's logits")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="while training")
    steps: int = Field(default=2000, ge=1, description="updates")
    batch_size: int = Field(default=1024, ge=1, description="pairs per update")
    learning_rate: float = Field(default=1e-3, gt=0, description="at its highest")


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
        fsdp: shard the model over the processes of torchrun.
        save_steps: None: ten times in all, but not more often than every 50 steps.
        eval_steps: None: as `save_steps`.
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
    fsdp: bool = False
    log_steps: int | None = None
    save_steps: int | None = None
    eval_steps: int | None = None
    seed: int = 0


# recipe hh: the card of weqweasdas/hh_rlhf_rm_open_llama_3b
HH_READING = ReadingSettings(
    format="hh", bos="single", eos="none", max_length=512, over_long="drop"
)
HH_TRAINING = TrainingSettings(learning_rate=5e-6, epochs=1, schedule="linear")
HH_SFT = TrainingSettings(learning_rate=2e-5, epochs=2, schedule="linear")
# the axolotl config of pair-pm; its batch holds 128 packed blocks of 3,072 tokens
PUBLISHED_PAIRWISE = TrainingSettings(
    learning_rate=5e-6, epochs=1, batch_size=128, schedule="cosine", warmup_ratio=40
)
# recipe grm: the scripts of Yang et al. 2024 (arXiv 2406.10216)
GRM_READING = ReadingSettings(max_length=3000, truncation_side="right")
PUBLISHED_FULL = TrainingSettings(
    learning_rate=5e-6, epochs=1, batch_size=256, schedule="cosine", warmup_ratio=0.03,
    max_grad_norm=5.0, gradient_checkpointing=True,
)  # fmt: skip
PUBLISHED_LORA = replace(
    PUBLISHED_FULL, learning_rate=1e-5, epochs=2, batch_size=24,
    lora=LoraSettings(
        r=32, alpha=64, dropout=0.05, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]
    ),
)  # fmt: skip
