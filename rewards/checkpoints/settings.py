"""Define the settings of how a reward model is loaded and reads text, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from rewards.types import Bos, EngineName, Eos, Format, NonFinite, TruncationSide
from rollout.types import InputError

__all__ = ["ModelSettings"]

ENGINES = get_args(EngineName)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The settings of how a reward model is loaded and reads text.

    None leaves a setting to what is known of the published model, then to its files. Raises
    `InputError` for an unknown engine, `gpu_memory` without vLLM, or `max_length` below 1; formats
    and BOS policies are checked where a tokenizer is at hand.
    """

    format: Format | None = None
    bos: Bos | None = None
    eos: Eos | None = None
    engine: EngineName = "auto"
    dtype: str | None = None
    device: str | None = None
    max_length: int | None = None
    batch_tokens: int | None = None
    gpu_memory: float | None = None
    truncation_side: TruncationSide = "left"
    separator: str = ""
    chat_template_kwargs: dict[str, object] | None = None
    non_finite: NonFinite = "raise"

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise InputError(
                f"engine={self.engine!r}",
                "is unknown",
                f"use one of {', '.join(ENGINES)}",
            )
        if self.gpu_memory is not None and self.engine != "vllm":
            raise InputError(
                f"gpu_memory={self.gpu_memory}", "is for engine: vllm alone", "leave it out"
            )
        if self.max_length is not None and self.max_length < 1:
            raise InputError(f"max_length={self.max_length}", "must be 1 or more")
