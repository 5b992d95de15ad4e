"""Settings that would fit where a plan does not, found by planning with each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from raft.plan.run import RunSizes, row_tokens
from rollout.engines.transfer import WITHOUT_DISK

if TYPE_CHECKING:
    from raft.config.run import RunConfig
    from raft.config.train_reward import TrainRewardConfig

__all__ = ["MORE", "in_shards", "run_changes", "training_changes", "what_would_fit"]

_C = TypeVar("_C", bound=BaseModel)
MORE = (2, 4, 8, 16, 32)
_AFTER_SHARDS = {"fsdp_offload", "optim"}
# the name of a change of settings, and the change
Named = tuple[str, Callable[[_C], _C]]
Changes = Callable[[_C, int], Iterator[Named[_C]]]


def what_would_fit(
    config: _C, gpus: int, changes: Changes[_C], fits: Callable[[_C, int], bool]
) -> str:
    """Return as a fix up to three changes of settings that would fit, each enough alone.

    Where none is, they are sets of two or three; else, how many such GPUs would be enough, alone or
    with a change. The last resort is a smaller model or larger GPUs.
    """

    def works(changed: _C, gpus: int) -> bool:
        return _is_accepted(changed) and fits(changed, gpus)

    known = list(changes(config, gpus))
    for count in (1, 2, 3):
        found: list[str] = []
        for several in combinations(known, count):
            if len({_section(name) for name, _ in several}) < count:
                continue
            changed = config
            for _, change in several:
                changed = change(changed)
            if works(changed, gpus):
                found.append(" with ".join(name for name, _ in several))
        if found:
            return f"it would fit with {', or '.join(found[:3])}"
    for more in MORE:
        if more > gpus and fits(config, more):
            return f"it would fit on {more} such GPUs"
        for name, change in changes(config, more) if more > gpus else ():
            if works(change(config), more):
                return f"it would fit on {more} such GPUs with {name}"
    return "take a smaller model, or GPUs with more memory"


def _is_accepted(config: BaseModel) -> bool:
    """Return whether the changed settings go together: changes are made without validation."""
    try:
        type(config).model_validate(config.model_dump(mode="json", exclude_unset=True))
    except ValidationError:
        return False
    return True


def _section(name: str) -> str:
    return name.partition(":")[0]


def run_changes(config: RunConfig, gpus: int) -> Iterator[Named[RunConfig]]:
    """Yield changes of a run's settings that save memory, in the order in which to try them."""
    train, cluster = config.train, config.cluster
    lighter = list(train.lighter(cluster.trainer_workers))
    for name, values in lighter:
        if not values.keys() & _AFTER_SHARDS:
            yield name, _set("train", **values)
    for workers in MORE:
        if workers <= gpus and (workers > cluster.trainer_workers or not train.fsdp):
            yield (
                f"train.fsdp: true and cluster.trainer_workers: {workers}",
                _both(
                    _set("train", fsdp=True, lora=None), _set("cluster", trainer_workers=workers)
                ),
            )
    for name, values in lighter:
        if values.keys() & _AFTER_SHARDS:
            yield name, _set("train", **values)
        if "optim" in values:
            yield f"{name} and train.dtype: bfloat16", _set("train", **values, dtype="bfloat16")
    for sequences in (64, 16):
        if sequences < (config.policy.max_num_seqs or 0):
            yield f"policy.max_num_seqs: {sequences}", _set("policy", max_num_seqs=sequences)
    if config.policy.sync in WITHOUT_DISK:  # nccl takes no memory, but forbids other changes
        yield "policy.sync: disk", _set("policy", sync="disk")
    for share in (0.3, 0.4, 0.6, 0.7, 0.9):
        if share != config.policy.gpu_memory:
            yield f"policy.gpu_memory: {share}", _set("policy", gpu_memory=share)
    needs = row_tokens(config, RunSizes.of(config, hub=True).policy)[1]
    if needs < (config.policy.max_model_len or 2**62):
        yield f"policy.max_model_len: {needs}", _set("policy", max_model_len=needs)
    for mode in ("separate", "colocated"):
        if mode != cluster.placement:
            yield f"cluster.placement: {mode}", _set("cluster", placement=mode)
    for name in ("rollout_workers", "reward_workers"):
        if getattr(cluster, name) > 1:
            yield f"cluster.{name}: 1", _set("cluster", **{name: 1})


def training_changes(config: TrainRewardConfig, gpus: int) -> Iterator[Named[TrainRewardConfig]]:
    """Yield changes as `run_changes` does, of the settings of a reward model's training."""
    from rewards.training.settings import LoraSettings

    train = config.train
    also, stages = _both_stages(config)
    if train.lora is None:
        lora = LoraSettings()
        yield f"train.lora{also}: {{r: {lora.r}}}", stages(lora=lora)
    for name, sharded in in_shards(config) if gpus > 1 else ():
        yield name, lambda _, sharded=sharded: sharded
    if not train.gradient_checkpointing:
        yield f"train.gradient_checkpointing{also}: true", stages(gradient_checkpointing=True)
    if "paged" not in (train.optimizer or ""):
        paged = "paged_adamw_32bit"
        yield f"train.optimizer{also}: {paged}", stages(optimizer=paged)
        yield (
            f"train.optimizer{also}: {paged} and train.dtype{also}: bfloat16",
            stages(optimizer=paged, dtype="bfloat16"),
        )
    for length in (2048, 1024, 512):
        if length < (config.max_length or 2**62):
            yield f"max_length: {length}", _top(max_length=length)


def in_shards(config: TrainRewardConfig) -> Iterator[tuple[str, TrainRewardConfig]]:
    """Yield the name of a change to shards (FSDP), and the config with it.

    Yield nothing for a training with LoRA, or one that is in shards already.
    """
    from raft.reward_training.recipes import OF_SHARDS, stages

    known = stages(config)
    if any(one.lora is not None or one.fsdp for one in known.values()) or not known:
        return
    also, change = _both_stages(config)
    if all(one.optimizer in OF_SHARDS for one in known.values()):
        yield f"train.fsdp{also}: true", change(fsdp=True)(config)
    else:
        name = f"train.fsdp{also}: true and train.optimizer{also}: {OF_SHARDS[0]}"
        yield name, change(fsdp=True, optimizer=OF_SHARDS[0])(config)


def _both_stages(
    config: TrainRewardConfig,
) -> tuple[str, Callable[..., Callable[[TrainRewardConfig], TrainRewardConfig]]]:
    """Return the suffix of a key that two stages have, and a function that changes it in both.

    Where there is only the stage `train`, the suffix is "", and only that is changed.
    """
    from raft.config.train_reward import SFTConfig

    both = config.recipe == "hh" and config.sft is not False

    def stages(**values: Any) -> Callable[[TrainRewardConfig], TrainRewardConfig]:
        first = (config.sft or SFTConfig()).model_copy(update=values) if both else config.sft
        return _both(_set("train", **values), _top(sft=first))

    return " (and sft's)" if both else "", stages


def _set(section: str, **values: Any) -> Callable[[_C], _C]:
    def change(config: _C) -> _C:
        changed = getattr(config, section).model_copy(update=values)
        return config.model_copy(update={section: changed})

    return change


def _top(**values: Any) -> Callable[[_C], _C]:
    return lambda config: config.model_copy(update=values)


def _both(first: Callable[[_C], _C], second: Callable[[_C], _C]) -> Callable[[_C], _C]:
    return lambda config: second(first(config))
