"""The section `policy` of a run's config."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rollout.engines.transfer import Sync

__all__ = ["PolicyConfig"]

# options of vLLM that other keys or the run itself set -> what an error says of each
_OF_VLLM = {
    "model": "use policy.model",
    "dtype": "use policy.dtype",
    "max_model_len": "use policy.max_model_len",
    "max_num_seqs": "use policy.max_num_seqs",
    "tensor_parallel_size": "use policy.tensor_parallel",
    "gpu_memory_utilization": "use policy.gpu_memory",
    "weight_transfer_config": "use policy.sync",
    "enable_lora": "use policy.lora_sync",
    "max_lora_rank": "use train.lora.r",
    "seed": "it comes from the run's seed; remove it",
    **dict.fromkeys(
        ("enable_sleep_mode", "enable_prefix_caching", "use_tqdm_on_load", "max_loras"),
        "a run sets it itself; remove it",
    ),
    "distributed_executor_backend": "a run sets it itself; remove it",
}


class PolicyConfig(BaseModel):
    """The starting policy, and the engine that draws from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="folder or hub name of the starting policy")
    engine: Literal["auto", "vllm", "transformers", "toy"] = Field(
        default="auto", description="what draws; auto: vllm where it can"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="of the engine; auto: the model's, on a CPU float32"
    )
    max_model_len: int | None = Field(
        default=None, ge=2, description="tokens; default: the model's own"
    )
    tensor_parallel: int = Field(default=1, ge=1, description="GPUs per rollout worker")
    gpu_memory: float | None = Field(
        default=None, gt=0, le=1, description="share of a GPU for vLLM; default: 0.85, shared 0.5"
    )
    max_num_seqs: int | None = Field(
        default=None, ge=1, description="sequences in flight per engine"
    )
    lora_sync: Literal["auto", "adapter", "merged"] = Field(
        default="auto",
        description="what engines load after an update with train.lora; auto: in 16 bits the "
        "adapter, where vLLM can",
    )
    sync: Sync = Field(
        default="auto",
        description="how engines get an update's weights: disk: from the checkpoint; nccl: from "
        "the trainers, where engines and trainers have GPUs of their own; ipc: from the trainers "
        "on the GPUs that they share; auto: disk",
    )
    vllm: dict[str, object] | None = Field(
        default=None, description="further options of vLLM's LLM, such as quantization: fp8"
    )
    template: Literal["auto", "chat", "plain", "hh", "hh_hash"] = Field(
        default="auto", description="auto: chat for messages, plain for text"
    )
    chat_template_kwargs: dict[str, object] | None = Field(
        default=None, description="variables of the chat template, such as enable_thinking: false"
    )

    @model_validator(mode="after")
    def _options_have_one_key(self) -> PolicyConfig:
        """Refuse an option of `vllm` that another key or the run itself sets, with ValueError."""
        for option, key in _OF_VLLM.items():
            if option in (self.vllm or {}):
                raise ValueError(f"vllm.{option}: {key}")
        return self
