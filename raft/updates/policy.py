"""The policy as a trainer loads and saves it: whole, with LoRA adapters beside it, or sharded.

The functions for shards (FSDP) need several GPUs. The tests have none, so those were never run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.engines.causal_lm import load_causal_lm
from rollout.storage.files import share_like_others

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch.distributed.checkpoint.state_dict import OptimizerStateType
    from transformers import PreTrainedModel, TrainerCallback

    from raft.config.train import LoraConfig

_ADAPTER = "adapter"


def load_policy(
    start: str, checkpoint: str | None, dtype: torch.dtype, lora: LoraConfig | None
) -> Any:
    """The model to train: of `checkpoint`, else of `start`. With LoRA the frozen weights are
    always `start`'s, and the checkpoint's adapter goes on."""
    source = start if lora else checkpoint or start
    model = load_causal_lm(source, dtype)
    if not lora:
        return model
    from peft import LoraConfig, PeftModel, get_peft_model

    if checkpoint:
        return PeftModel.from_pretrained(model, Path(checkpoint) / _ADAPTER, is_trainable=True)
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )
    return get_peft_model(model, settings)


def save_policy(
    model: Any, out: Path, lora: bool, state: dict[str, torch.Tensor] | None = None
) -> None:
    """A folder that any engine loads; with LoRA, merged, and the adapter in a folder within."""
    if lora:
        model.save_pretrained(out / _ADAPTER)
        model.get_base_model().save_pretrained(out, state_dict=merged_state(model))
    else:
        model.save_pretrained(out, state_dict=state)
    share_like_others(out)


def merged_state(model: PeftModel) -> dict[str, torch.Tensor]:
    """The weights W + ΔW of a peft model under their plain names; the model itself is untouched.

    Merging in place and back would leave rounding in the frozen weights, once per iteration.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    deltas: dict[str, torch.Tensor | int] = {}
    with torch.no_grad():
        for name, module in base.named_modules():
            if isinstance(module, BaseTunerLayer):
                deltas[f"{name}.weight"] = sum(
                    module.get_delta_weight(adapter)  # type: ignore[operator]
                    for adapter in module.active_adapters
                )
        merged: dict[str, torch.Tensor] = {}
        for key, value in base.state_dict().items():
            if "lora_" in key:
                continue
            plain = key.replace(".base_layer.", ".")
            merged[plain] = value + deltas[plain] if plain in deltas else value
    return merged


class OwnSettings:
    """A policy's own settings, which the trainer changes: its checkpoints keep them."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._values = {
            (part, key): getattr(getattr(model, part), key, None)
            for part in ("config", "generation_config")
            for key in ("use_cache", "pad_token_id")
        }

    @contextlib.contextmanager
    def restored(self, model: PreTrainedModel) -> Iterator[None]:
        """The policy's inside, the trainer's again after."""
        training = OwnSettings(model)
        self._put(model)
        yield
        training._put(model)

    def _put(self, model: PreTrainedModel) -> None:
        for (part, key), value in self._values.items():
            setattr(getattr(model, part), key, value)


def gather_whole(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], OptimizerStateType]:
    """Whole weights and optimizer state, on the CPU of rank 0; every rank takes part."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_state_dict(model, optimizer, options=whole)


def restore_at_start(optimizer_state: OptimizerStateType) -> TrainerCallback:
    """A callback that shards a whole optimizer state: there are no shards before training."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict
    from transformers import TrainerCallback

    class Restore(TrainerCallback):
        pending = True

        def on_train_begin(
            self, args: object, state: object, control: object, **kwargs: Any
        ) -> None:
            if self.pending:
                self.pending = False
                whole = StateDictOptions(full_state_dict=True)
                optimizer = kwargs["optimizer"].optimizer
                set_optimizer_state_dict(kwargs["model"], optimizer, optimizer_state, options=whole)

    return Restore()
