"""The sections `train` and `checkpoint` of a run's config: how a policy is updated and stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from raft.config.updates import SftUpdate, UpdateConfig
from rollout.errors import InputError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LoraConfig(_Section):
    r: int = Field(default=16, ge=1, description="rank of the adapters")
    alpha: int = Field(default=32, ge=1, description="adapters are scaled by alpha / r")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of inputs dropped")
    target_modules: str | list[str] = Field(
        default="all-linear", description="names of the layers that get adapters"
    )


class MixConfig(_Section):
    path: str = Field(
        description="conversations, prompts with responses, or texts, that are learned as they are"
    )
    share: float = Field(default=0.1, gt=0, lt=1, description="their share of the rows")


class CheckpointConfig(_Section):
    every: int = Field(
        default=1,
        ge=1,
        description="iterations between checkpoints that training goes on from; after the others "
        "the weights alone are on disk, till the next; a resumed run makes their updates again",
    )


class TrainConfig(_Section):
    """How the policy is trained in an iteration; trainers are given this section unchanged."""

    update: UpdateConfig = SftUpdate()
    start_from: Literal["previous", "start"] = Field(
        default="previous",
        description="the policy that is trained: the last one, or always the starting one with a "
        "fresh optimizer (ReST-EM)",
    )
    mix: MixConfig | None = None
    kl: float = Field(
        default=0.0,
        ge=0,
        description="weight of the KL to the starting policy in the loss, per token (k3 estimate)",
    )
    learning_rate: float = Field(default=2e-5, gt=0, description="at its highest")
    epochs: float = Field(default=1, gt=0, description="passes over the rows")
    batch_size: int = Field(
        default=16, ge=1, description="rows per optimizer step, over all trainers"
    )
    micro_batch_size: int | None = Field(default=None, ge=1, description="rows per forward pass")
    loss_on: Literal["response", "all"] = Field(
        default="response", description="tokens that are trained on"
    )
    optimizer: Literal["persistent", "fresh"] = Field(
        default="persistent", description="whether its state outlasts an iteration"
    )
    optim: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = Field(
        default="adamw",
        description="AdamW with moments of 8 or 2 bytes per weight, on the GPU or paged to the CPU",
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="of the learning rate, in each iteration"
    )
    warmup_steps: int = Field(default=0, ge=0, description="over which the rate rises")
    weight_decay: float = Field(default=0.0, ge=0, description="of AdamW")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are clipped to it")
    max_length: int | None = Field(
        default=None, ge=2, description="most tokens of a row; a longer one is an error"
    )
    packing: Literal["none", "bfd", "wrapped"] = Field(
        default="none",
        description="bfd: rows side by side in blocks of max_length, apart for attention; wrapped: "
        "rows end to end, cut into blocks",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="less memory for a third more time"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="of the weights that are trained"
    )
    lora: LoraConfig | None = None
    fsdp: bool = Field(default=False, description="shard the policy over cluster.trainer_workers")
    fsdp_offload: bool = Field(
        default=False, description="shards and their optimizer rest in CPU memory"
    )

    @property
    def fresh(self) -> bool:
        return self.optimizer == "fresh" or self.start_from == "start"

    @property
    def compares(self) -> bool:
        """Return whether the loss depends on the ratio of two policies."""
        return self.update.bounds is not None or self.update.kind == "dpo"

    def rows_per_forward(self, world_size: int) -> int:
        return self.micro_batch_size or max(1, self.batch_size // world_size)

    def lighter(self, workers: int) -> Iterator[tuple[str, dict[str, object]]]:
        """Yield changes that save memory, cheapest first: (the setting as text, the new values)."""
        if self.lora is None:
            lora = LoraConfig()
            yield f"train.lora: {{r: {lora.r}}}", {"lora": lora, "fsdp": False}
        if not self.gradient_checkpointing:
            yield "train.gradient_checkpointing: true", {"gradient_checkpointing": True}
        if self.rows_per_forward(workers) > 1:
            yield "train.micro_batch_size: 1", {"micro_batch_size": 1}
        if self.fsdp and not self.fsdp_offload:
            yield "train.fsdp_offload: true", {"fsdp_offload": True}
        if self.optim == "adamw" and not self.fsdp:
            yield "train.optim: adamw_8bit", {"optim": "adamw_8bit"}

    def check(self, on_gpu: bool, world_size: int) -> None:
        """Check that the training libraries can do exactly what the settings ask for.

        Raises:
            InputError: a combination that they cannot do, or would silently change; names the key.
        """
        if self.packing != "none" and self.max_length is None:
            raise InputError(
                "train.packing",
                "packing needs train.max_length",
                "set it to the length of a block",
            )
        if self.fsdp and (not on_gpu or world_size == 1):  # would silently train unsharded
            raise InputError(
                "train.fsdp",
                "shards over cluster.trainer_workers on GPUs, and here is "
                f"{'one trainer' if world_size == 1 else 'no GPU'}",
                "set train.fsdp: false",
            )
        if self.fsdp and self.lora:
            raise InputError("train.fsdp", "does not go with train.lora", "use one of them")
        if self.fsdp and self.optim != "adamw":
            raise InputError(
                "train.optim",
                f"{self.optim} does not know the shards of train.fsdp",
                "use adamw, and train.fsdp_offload where memory is short",
            )
        if self.fsdp_offload and not self.fsdp:
            raise InputError("train.fsdp_offload", "is for train.fsdp", "set both or neither")
        self._check_update()
        rows = self.rows_per_forward(world_size)
        if self.batch_size % (rows * world_size):
            raise InputError(
                "train.batch_size",
                f"{self.batch_size} is not a multiple of micro_batch_size {rows} × {world_size} "
                "trainers",
                "change one of the three",
            )

    def _check_update(self) -> None:
        """Refuse settings that do not go with the kind of update, with InputError."""
        kind, packs = self.update.kind, self.packing != "none"
        of_kind = f"train.update {kind}"
        rules = (
            (packs and kind != "sft", "packing", of_kind, "none"),
            (packs and self.kl > 0, "packing", "train.kl", "none"),
            # the prompt's tokens were not drawn by a policy, and both sides of a pair share them
            (self.compares and self.loss_on == "all", "loss_on", of_kind, "response"),
            # dropout would add noise to the ratio of two policies
            (self.compares and bool(self.lora and self.lora.dropout), "lora.dropout", of_kind, "0"),
            (kind == "dpo" and self.kl > 0, "kl", "train.update dpo, which has beta", "0"),
            (kind == "dpo" and self.mix is not None, "mix", of_kind, "null"),
            (self.start_from == "start" and self.fsdp, "fsdp", "train.start_from start", "false"),
        )
        for wrong, key, other, fix in rules:
            if wrong:
                raise InputError(f"train.{key}", f"does not go with {other}", f"set it to {fix}")
