"""How a reward model is trained: plain values, the same for every recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rewards.training.layout import Layout
from rewards.types import Bos, Format, TruncationSide
from rollout.types import InputError

__all__ = ["LoraSettings", "LossSettings", "ReadingSettings", "TrainingSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingSettings:
    """How the model is to read conversations, in training and ever after.

    None: as `load_reward` would find it in the starting model's files. `chat_template` is for a
    tokenizer that has none, or to replace its own.
    """

    format: Format | None = None
    bos: Bos | None = None
    max_length: int | None = None
    truncation_side: TruncationSide = "left"
    separator: str = ""
    over_long: Literal["cut", "drop"] = "cut"
    chat_template: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """Weights of the terms of `losses.pair_loss`; `margin` scales the pairs' own margins."""

    margin: float = 0.0
    label_smoothing: float = 0.0
    center: float = 0.0
    positive_weight: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 0.5:
            raise InputError(f"label_smoothing={self.label_smoothing}", "must be in [0, 0.5)")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"


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
