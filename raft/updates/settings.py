"""How the SFT update is made: the keys of `train` in a config, and what does not go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rollout.types import InputError


@dataclass(frozen=True)
class SFTSettings:
    """`raft validate --keys` says what each of them means."""

    learning_rate: float = 2e-5
    epochs: float = 1
    batch_size: int = 16
    micro_batch_size: int | None = None
    loss_on: str = "response"
    optimizer: str = "persistent"
    schedule: str = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_length: int | None = None
    packing: str = "none"
    gradient_checkpointing: bool = False
    dtype: str = "auto"
    lora: dict[str, Any] | None = None
    fsdp: bool = False

    @property
    def fresh(self) -> bool:
        return self.optimizer == "fresh"

    def autocast(self, on_gpu: bool) -> bool:
        """Weights stay in float32 and the arithmetic runs in bfloat16: steps of 1e-5 would vanish
        in bfloat16 weights."""
        return on_gpu and self.dtype == "auto"

    def check(self, on_gpu: bool, world_size: int) -> None:
        """Refuse what the libraries would do otherwise than asked, or not at all.

        Raises:
            InputError: it names the key.
        """
        if self.packing != "none" and self.max_length is None:
            raise InputError(
                "train.packing",
                "packing needs train.max_length, the length of a block",
            )
        if self.packing == "bfd" and not on_gpu:
            raise InputError(
                "train.packing",
                "bfd needs flash attention, so a GPU",
                "use wrapped or none on a CPU",
            )
        if self.fsdp and (not on_gpu or world_size == 1):  # it would train unsharded, unsaid
            raise InputError(
                "train.fsdp",
                "shards over cluster.trainer_workers on GPUs, and here is "
                f"{'one trainer' if world_size == 1 else 'no GPU'}",
                "set train.fsdp: false",
            )
        if self.fsdp and self.lora:
            raise InputError("train.fsdp", "does not go with train.lora", "use one of them")

    def arguments(self, on_gpu: bool, world_size: int) -> dict[str, Any]:
        """What TRL's SFTConfig is to know of it."""
        per_forward = self._rows_per_forward(world_size)
        sharded = {"fsdp": True, "fsdp_config": {"version": 2}} if self.fsdp else {}
        return {
            "learning_rate": self.learning_rate,
            "per_device_train_batch_size": per_forward,
            "gradient_accumulation_steps": self.batch_size // (per_forward * world_size),
            "num_train_epochs": 1,  # our data set holds all of them, in order
            "train_sampling_strategy": "sequential",
            "lr_scheduler_type": self.schedule,
            "warmup_steps": self.warmup_steps,
            "weight_decay": self.weight_decay,
            "max_grad_norm": self.max_grad_norm,
            "gradient_checkpointing": self.gradient_checkpointing,
            "use_cpu": not on_gpu,
            "bf16": self.autocast(on_gpu),
            "dataloader_pin_memory": on_gpu,
            "padding_free": self.packing == "bfd",
            **sharded,
        }

    def _rows_per_forward(self, world_size: int) -> int:
        rows = self.micro_batch_size or max(1, self.batch_size // world_size)
        if self.batch_size % (rows * world_size):
            raise InputError(
                "train.batch_size",
                f"{self.batch_size} is no multiple of micro_batch_size {rows} × {world_size} "
                "trainers",
            )
        return rows
