"""The plan for training a reward model, where every process holds the whole model or a shard."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from raft.config.train_reward import SFTConfig
from raft.plan.memory import (
    CONTEXT,
    GIB,
    Part,
    Parts,
    Process,
    Training,
    inference_bytes,
    optimizer_bytes,
    total,
    training_parts,
)
from raft.plan.plan import Disk, Plan, free, machine_gpus, refuse_what_cannot_fit
from raft.plan.remedies import MORE, in_shards, training_changes, what_would_fit
from raft.plan.sizes import ModelSize, model_size
from raft.plan.tokens import Tokens
from raft.reward_training.recipes import longest_side, stages
from rollout.errors import InputError

if TYPE_CHECKING:
    from raft.config.train_reward import TrainRewardConfig
    from rewards.training.settings import TrainingSettings

__all__ = ["check_training_fits", "check_training_plan", "plan_training"]

# copies of constants in rewards.training.trainer, .grm_objective, rewards.inference.transformers
_MICRO_TOKENS, _MICRO_TOKENS_CPU = 16_384, 2048
_GRM_LOGITS = 1024
_FEATURE_TOKENS = 32_768
_CHECKPOINTS = 3  # two are kept while the next is written


def plan_training(config: TrainRewardConfig, gpus: int, memory: float, *, hub: bool = True) -> Plan:
    """Plan a training in one process on each of `gpus` GPUs of `memory` GiB; 0 is the CPU.

    Raises:
        InputError: the size of the model cannot be determined.
    """
    parts, checkpoint = _armorm(config, gpus, hub=hub), 0
    tokens: list[Tokens] = []
    for section, settings in stages(config).items():
        size = _size(config, section, hub)
        how = _training(config, section, settings, size, gpus)
        needs = training_parts(size, how)
        parts = max(parts, needs, key=total)
        state = int(how.trained * optimizer_bytes(how.optimizer, how.gradient))
        checkpoint = max(checkpoint, how.trained * how.gradient + state)
        side = _side(config, section, size)
        each = settings.batch_size * side * (2 if section == "train" else 1)
        tokens.append(Tokens(f"trained ({section})", each, None))
    if not gpus:
        parts = {name: part for name, part in parts.items() if name != "other"}
    processes = tuple(
        Process(f"trainer {rank}", (rank,) if gpus else (), {"train": parts}, _host(parts, gpus))
        for rank in range(max(1, gpus))
    )
    return Plan(
        summary=f"{_held(config)} on each of {gpus} GPU(s)" if gpus else "no GPU",
        gpus=gpus,
        memory=int(memory * GIB),
        processes=processes,
        disk=Disk(checkpoint, _CHECKPOINTS, 0, free(config.run_dir)),
        tokens=tuple(tokens),
        step="step",
    )


def check_training_plan(config: TrainRewardConfig, gpus: int, memory: float) -> None:
    """Check that a training fits GPUs of `memory` GiB (0 GPUs: the CPU).

    Raises InputError where it does not, with the settings or GPUs with which it would.
    """
    if (problem := plan_training(config, gpus, memory).problem()) is not None:
        fits = partial(_fits, memory=memory)
        fix = what_would_fit(config, max(gpus, 1), training_changes, fits)
        for name, sharded in () if "fsdp" in fix else in_shards(config):
            # more GPUs would each hold as much, but for shards
            fewest = next((n for n in MORE if n > gpus and fits(sharded, n)), None)
            fix += f"; or on {fewest} such GPUs with {name}" if fewest else ""
        raise InputError(*problem, fix)


def check_training_fits(config: TrainRewardConfig, *, hub: bool) -> None:
    """Check that a training fits a GPU of this machine, if it has any, or in shards all of them.

    Raises:
        InputError: the training cannot fit.
    """
    there, memory = machine_gpus()
    if there:
        gpus = there if _in_shards(config) else 1
        refuse_what_cannot_fit(
            partial(plan_training, config, gpus, memory, hub=hub),
            partial(check_training_plan, config, gpus, memory),
        )


def _fits(config: TrainRewardConfig, gpus: int, memory: float) -> bool:
    gpus = gpus if _in_shards(config) else min(gpus, 1)
    return plan_training(config, gpus, memory).problem() is None


def _in_shards(config: TrainRewardConfig) -> bool:
    return any(one.fsdp for one in stages(config).values())


def _held(config: TrainRewardConfig) -> str:
    return "a shard of the model" if _in_shards(config) else "the whole model"


def _host(parts: Parts, gpus: int) -> int:
    """Return the bytes of CPU memory of a process: on a GPU, those of a paged optimizer, if any."""
    return total(parts) if not gpus else parts["optimizer"].bytes if _is_paged(parts) else 0


def _is_paged(parts: Parts) -> bool:
    return "optimizer" in parts and parts["optimizer"].least == 0


def _size(config: TrainRewardConfig, section: str, hub: bool) -> ModelSize:
    scalar = config.recipe in ("bradley_terry", "hh", "armorm") and section == "train"
    return model_size(config.model, "model", "backbone" if scalar else "causal", hub=hub)


def _side(config: TrainRewardConfig, section: str, size: ModelSize) -> int:
    """Return the most tokens of one row of a stage, or of one side of a pair."""
    if section == "sft":
        return (config.sft or SFTConfig()).chunk
    return longest_side(config) or size.context or 2048


def _training(
    config: TrainRewardConfig, section: str, given: TrainingSettings, size: ModelSize, gpus: int
) -> Training:
    lora, on_gpu = given.lora, gpus > 0
    element = {"float32": 4, "bfloat16": 2, "auto": 2 if lora and on_gpu else 4}[given.dtype]
    side = _side(config, section, size)
    alone = side * (1 if section == "sft" or config.recipe == "pairwise" else 2)
    tokens = given.micro_tokens or (_MICRO_TOKENS if on_gpu else _MICRO_TOKENS_CPU)
    logits = {"grm": _GRM_LOGITS}.get(config.recipe, 0)
    compares = config.grm is not None and config.grm.regulariser == "dpo" and lora is None
    return Training(
        element=element,
        autocast=on_gpu and given.dtype == "auto",
        trained=size.adapters(lora.r, lora.target_modules) if lora else size.elements,
        lora=lora is not None,
        checkpointing=given.gradient_checkpointing,
        tokens=max(tokens, alone),
        least_tokens=alone,
        optimizer=given.optimizer,
        world=max(1, gpus),
        shards=max(1, gpus) if given.fsdp else 1,
        gathered=2 if on_gpu and given.dtype == "auto" else element,
        logits=max(tokens, alone) if section == "sft" else logits,
        reference=size.elements if compares else 0,
    )


def _armorm(config: TrainRewardConfig, gpus: int, *, hub: bool) -> Parts:
    """Return the memory of the frozen model whose states ArmoRM learns from; {} without `armorm`.

    Ridge regression and gate take little beside it, and are not counted.
    """
    if config.armorm is None:
        return {}
    size = _size(config, "train", hub)
    dtype = config.armorm.dtype or ("float32" if not gpus or size.saved_bytes == 4 else "bfloat16")
    element = 4 if dtype == "float32" else 2
    side = _side(config, "train", size)
    tokens = max(config.armorm.batch_tokens or _FEATURE_TOKENS, side)
    return {
        "weights": Part(size.elements * element),
        "activations": Part(
            inference_bytes(size, tokens, element), inference_bytes(size, side, element)
        ),
        "other": Part(CONTEXT),
    }
