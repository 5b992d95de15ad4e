"""The policy as a trainer loads and saves it: whole, with LoRA adapters beside it, or sharded.

The functions for shards (FSDP) need several GPUs; the tests run them in several CPU processes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.engines.base import ADAPTER_FOLDER
from rollout.engines.causal_lm import load_causal_lm
from rollout.errors import InputError
from rollout.storage.files import share_like_others, write_json

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

    from raft.config.train import LoraConfig, TrainConfig

_SHARD_BYTES = 5 * 10**9
_PART = ".part-"
# by transformers' names
_OPTIMIZERS = {
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw": "paged_adamw_32bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}


def load_policy(
    start: str, checkpoint: str | None, dtype: torch.dtype, lora: LoraConfig | None
) -> Any:
    """Return the model to train: that of `checkpoint`, or without one that of `start`.

    With LoRA the frozen weights are always those of `start`, and the adapter is the checkpoint's.
    """
    source = start if lora else checkpoint or start
    model = load_causal_lm(source, dtype)
    if not lora:
        return model
    from peft import LoraConfig, PeftModel, get_peft_model

    if checkpoint:
        trained = Path(checkpoint) / ADAPTER_FOLDER
        return PeftModel.from_pretrained(model, trained, is_trainable=True)
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )
    return get_peft_model(model, settings)


def weights_dtype(settings: TrainConfig, on_gpu: bool) -> torch.dtype:
    """Return the dtype in which the policy's weights are held while they are trained.

    Steps of 1e-5 would vanish in bfloat16 weights, so `auto` holds float32. On a GPU, weights that
    LoRA freezes are held in the bfloat16 that the engine gets: 8 B in float32 leave no room there.
    """
    import torch

    if settings.dtype == "auto":
        return torch.bfloat16 if settings.lora and on_gpu else torch.float32
    return getattr(torch, settings.dtype)


def training_arguments(settings: TrainConfig, on_gpu: bool, world_size: int) -> dict[str, Any]:
    """Return the settings under the names of TRL's SFTConfig.

    `gradient_checkpointing` is transformers' for shards too: with FSDP2 it gathers no shard once
    more, while accelerate's wraps the layers again at every update.

    Raises:
        InputError: the optimizer's package is not installed.
    """
    per_forward = settings.rows_per_forward(world_size)
    found: dict[str, Any] = {
        "learning_rate": settings.learning_rate,
        "per_device_train_batch_size": per_forward,
        "gradient_accumulation_steps": settings.batch_size // (per_forward * world_size),
        "num_train_epochs": 1,  # our data set holds all of them, in order
        "train_sampling_strategy": "sequential",
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": settings.warmup_steps,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "padding_free": settings.packing == "bfd",
    }
    if settings.fsdp:
        config = {"version": 2, "cpu_offload": settings.fsdp_offload}
        found |= {"fsdp": True, "fsdp_config": config}
    if settings.fsdp_offload:  # gradients are in CPU memory too, where ranks sum their norm
        found["ddp_backend"] = "cuda:nccl,cpu:gloo"
    if settings.optim != "adamw":
        if importlib.util.find_spec("bitsandbytes") is None:
            raise InputError(
                "train.optim",
                f"{settings.optim} needs bitsandbytes, which is not installed",
                "pip install 'raft-rlhf[gpu]', or use adamw",
            )
        found["optim"] = _OPTIMIZERS[settings.optim]
    return found


def save_policy(
    model: Any, out: Path, lora: bool, state: dict[str, torch.Tensor] | None = None
) -> None:
    """Write the policy to the folder `out`, which any engine can load.

    With LoRA, the weights are merged, and the adapter is in a folder within.
    """
    if lora:
        model.save_pretrained(out / ADAPTER_FOLDER)
        _save_merged(model, out)
    else:
        model.save_pretrained(out, state_dict=state)
    share_like_others(out)


def merged_tensors(model: PeftModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights W + ΔW of a peft model on the CPU, under their plain names, in W's dtype.

    They are made one at a time: all of them, or all ΔW, would take the model's memory once more.
    Merging in place and back would leave rounding in the frozen weights, once per iteration.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    base: Any = model.get_base_model()
    # peft wraps a module of experts once for each parameter that holds the weights of all experts
    adapted = {
        f"{name}.{getattr(module, 'parameter_name', 'weight')}".replace(".base_layer", ""): module
        for name, module in base.named_modules()
        if isinstance(module, BaseTunerLayer)
    }
    seen: set[int] = set()  # a tied weight has several names, of which files have the first
    for key, value in base.state_dict(keep_vars=True).items():
        name = key.replace(".base_layer", "")
        module = adapted.get(name)
        if "lora_" in key or (id(value) in seen and module is None):
            continue
        seen.add(id(value))
        merged = value.detach()
        if module is not None:
            with torch.no_grad():
                for adapter in module.active_adapters:
                    delta = module.get_delta_weight(adapter)  # type: ignore[operator]
                    merged = merged.float() + delta.float()
        yield name, merged.to(value.dtype).cpu()


def _save_merged(model: PeftModel, out: Path, most_bytes: int = _SHARD_BYTES) -> None:
    """Write a merged policy's settings, and its weights in files that are filled one after another.

    This is `save_pretrained` for a merged model that is never whole in memory.
    """
    from safetensors.torch import save_file
    from transformers.core_model_loading import revert_weight_conversion

    base: Any = model.get_base_model()
    shards: list[list[str]] = []
    total = 0

    def write(shard: dict[str, torch.Tensor]) -> None:
        # under the names of the family's checkpoints, where transformers has others in memory
        named = revert_weight_conversion(base, shard)
        whole = {name: tensor.contiguous() for name, tensor in named.items()}
        save_file(whole, out / f"{_PART}{len(shards)}", metadata={"format": "pt"})
        shards.append(list(whole))

    shard: dict[str, torch.Tensor] = {}
    for name, tensor in merged_tensors(model):
        if shard and sum(one.nbytes for one in shard.values()) + tensor.nbytes > most_bytes:
            write(shard)
            shard = {}
        shard[name] = tensor
        total += tensor.nbytes
    write(shard)
    files = (
        {"model.safetensors": shards[0]}
        if len(shards) == 1
        else {
            f"model-{number:05d}-of-{len(shards):05d}.safetensors": names
            for number, names in enumerate(shards, 1)
        }
    )
    for number, file in enumerate(files):
        (out / f"{_PART}{number}").rename(out / file)
    if len(files) > 1:
        where = {name: file for file, names in files.items() for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        write_json(out / "model.safetensors.index.json", index)
    base.config.dtype = str(base.dtype).removeprefix("torch.")
    base.config.architectures = [type(base).__name__]
    base.config.save_pretrained(out)
    if base.can_generate():
        base.generation_config.save_pretrained(out)


class OwnSettings:
    """The settings that a policy came with; the trainer changes them, but checkpoints have them."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._values = {
            (part, key): getattr(getattr(model, part), key, None)
            for part in ("config", "generation_config")
            for key in ("use_cache", "pad_token_id")
        }

    @contextlib.contextmanager
    def restored(self, model: PreTrainedModel) -> Iterator[None]:
        """Give `model` the policy's own settings in the context, and the trainer's again after."""
        training = OwnSettings(model)
        self._put(model)
        try:
            yield
        finally:
            training._put(model)

    def _put(self, model: PreTrainedModel) -> None:
        for (part, key), value in self._values.items():
            setattr(getattr(model, part), key, value)


def attend_by_rows(model: Any) -> None:
    """Make packed rows sequences of one attention call per layer, where the GPU has such a call.

    The dense mask that otherwise keeps rows apart is then made, but not used.
    """
    from rewards.inference import packed_attention

    base = getattr(model, "get_base_model", lambda: model)()
    if base._supports_attention_backend and base.config._attn_implementation == "sdpa":
        packed_attention.register()
        base.set_attn_implementation(packed_attention.ROWS)


def check_rows_stay_apart(model: Any, source: str) -> None:
    """Check that rows which are packed side by side do not attend to each other.

    Most families make a mask of the positions, which begin anew with each row; some ignore them.

    Raises:
        InputError: the rows attend to each other in this policy's family.
    """
    import torch

    was_training = model.training
    model.eval()
    first, second = [0, 1, 2], [3, 2, 1, 0]
    ids = torch.tensor([first + second], device=model.device)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]], device=model.device)
    base = getattr(model, "get_base_model", lambda: model)()
    takes = "position_ids" in inspect.signature(base.forward).parameters
    given = {"position_ids": positions} if takes else {}
    with torch.no_grad():
        alone = model(input_ids=ids[:, 3:], use_cache=False).logits
        packed = model(input_ids=ids, **given, use_cache=False).logits[:, 3:]
        # for comparison: the logits where the second row sees the first
        seeing = model(input_ids=ids, use_cache=False).logits[:, 3:]
    model.train(was_training)
    if not (packed - alone).abs().max() <= 0.2 * (seeing - alone).abs().max():
        raise InputError(
            "train.packing",
            f"bfd: rows of {source} side by side would see each other in {type(model).__name__}",
            "use wrapped or none",
        )


def reduce_in_float32(accelerator: Any) -> None:
    """Have gradients of shards summed in float32; the default is the dtype of the arithmetic."""
    import torch

    plugin = accelerator.state.fsdp_plugin
    if (policy := plugin.mixed_precision_policy) is not None:
        plugin.mixed_precision_policy = replace(policy, reduce_dtype=torch.float32)


@contextlib.contextmanager
def shards_restored(model: torch.nn.Module) -> Iterator[None]:
    """Leave each rank of a sharded policy with its shards after a forward pass without gradients.

    The root's weights stay whole for the backward pass that follows a forward pass in training, and
    an update that begins with whole weights cannot find the optimizer's (accelerate 1.15).
    """
    from torch.distributed.fsdp import FSDPModule

    try:
        yield
    finally:
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def move_optimizer(optimizer: torch.optim.Optimizer | None, device: str) -> None:
    """Move the optimizer's moments to a device, but for paged ones, which move by themselves."""
    import torch

    for state in optimizer.state.values() if optimizer is not None else ():
        for key, value in state.items():
            paged = getattr(value, "is_paged", False)
            if torch.is_tensor(value) and value.dim() and not paged:
                state[key] = value.to(device)


def free_cached() -> None:
    """Give back what torch keeps of the GPU's memory, and buffers that engines have closed."""
    import torch

    torch.cuda.ipc_collect()
    torch.cuda.empty_cache()


def gather_weights(model: torch.nn.Module) -> dict[str, Any]:
    """Return the whole weights, on the CPU of rank 0 ({} on others); every rank must call this."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(model, options=whole)


@contextlib.contextmanager
def forward_unwrapped(model: torch.nn.Module) -> Iterator[None]:
    """Restore `model.forward` after the context: mixed precision wraps it whenever training starts,
    one layer more every iteration."""
    before = model.__dict__.get("forward")
    try:
        yield
    finally:
        if before is not None:
            model.forward = before
        else:
            model.__dict__.pop("forward", None)
