"""The memory of a RAFT run's processes on each GPU, while they work and while they sleep."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from raft.monitor.log_probs import MOST_LOGITS, MOST_TOKENS
from raft.plan.memory import (
    CONTEXT,
    GIB,
    PHASES,
    Part,
    Parts,
    Phase,
    Process,
    Training,
    inference_bytes,
    total,
    training_parts,
)
from raft.plan.sizes import ModelSize, model_size
from raft.resources import engine_share, place_workers, reward_share, with_monitor
from raft.workers.placement import Placement
from rewards.checkpoints.published import find_published
from rollout.engines.base import TOY_FILE
from rollout.engines.vllm_transfer import BUFFER

if TYPE_CHECKING:
    from raft.config.run import RunConfig
    from raft.workers.executors import Resources
    from rewards.spec import ModelSpec, PairwiseSpec

__all__ = ["RunSizes", "place_run", "row_tokens", "run_processes"]

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_NOT_BY_VLLM = ("gpt_neo",)
_PREFILL, _SEQUENCES = 16_384, 1024  # vLLM's defaults on a GPU of 70 GB or more
_CPU_CACHE = GIB  # as rollout.engines.vllm sets it
_SCORED, _SCORED_CPU = 32_768, 2048  # tokens of a batch of rewards.inference.transformers


@dataclass(frozen=True)
class RunSizes:
    """The sizes of a run's models: the policy's (None of a toy), and the rewards' by model name."""

    policy: ModelSize | None
    rewards: Mapping[str, ModelSize]

    @classmethod
    def of(cls, config: RunConfig, *, hub: bool) -> RunSizes:
        """Return the sizes of a config's models. Raises InputError where one is not known."""
        model = config.policy.model
        toy = os.path.exists(os.path.join(os.path.expanduser(model), TOY_FILE))
        found = {
            part.model: model_size(
                part.model,
                f"{key}.model",
                "causal" if part.kind == "pairwise" else "backbone",
                hub=hub,
            )
            for key, part in _loaded(config)
        }
        return cls(None if toy else model_size(model, "policy.model", hub=hub), found)


def _loaded(config: RunConfig) -> Iterator[tuple[str, ModelSpec | PairwiseSpec]]:
    for key, reward in config.rewards().items():
        for part in reward.parts():
            if part.kind == "model" or part.kind == "pairwise":
                yield key, part


def place_run(config: RunConfig, gpus: int) -> Placement:
    """Return which worker gets which of `gpus` GPUs. Raises InputError where they do not fit."""
    free = config.cluster.model_copy(update={"gpus": None})
    anywhere = config.model_copy(update={"cluster": free})
    return with_monitor(anywhere, gpus, place_workers(anywhere, gpus))


def row_tokens(config: RunConfig, size: ModelSize | None) -> tuple[int, int]:
    """Return the most tokens of a prompt, and of a prompt and its response together."""
    new = config.sampling.max_new_tokens
    context = config.policy.max_model_len or (size.context if size else None) or 2048
    prompt = min(config.prompts.max_tokens or context, max(1, context - new))
    return prompt, min(prompt + new, context)


def run_processes(
    config: RunConfig, sizes: RunSizes, placement: Placement, memory: int
) -> list[Process]:
    """Return every worker of the run, on GPUs of `memory` bytes or on the CPU."""
    gpus = _numbers(placement)
    made = [
        _rollout(config, sizes, placement, memory, number, gpus["rollout"][number])
        for number in range(len(placement.rollout))
    ]
    made += [
        _reward(config, sizes, placement, memory, number, gpus["reward"][number])
        for number in range(len(placement.reward))
    ]
    made += [
        _trainer(config, sizes, placement, number, gpus["trainer"][number])
        for number in range(len(placement.trainer))
    ]
    if placement.monitor is not None:
        made.append(_monitor(config, sizes, placement, gpus["monitor"][0]))
    if config.policy.sync == "ipc":
        return made
    # otherwise engines get the weights while no more is awake than in other phases
    return [
        replace(one, phases={name: parts for name, parts in one.phases.items() if name != "sync"})
        for one in made
    ]


def _numbers(placement: Placement) -> dict[str, list[tuple[int, ...]]]:
    """Return the numbers of each worker's GPUs, by group; GPUs are numbered slot by slot."""
    begin = list(accumulate((slot.gpus for slot in placement.slots), initial=0))

    def of(worker: Resources) -> tuple[int, ...]:
        return () if worker.slot is None else tuple(range(*begin[worker.slot : worker.slot + 2]))

    groups: dict[str, tuple[Resources, ...]] = {
        "rollout": placement.rollout, "reward": placement.reward, "trainer": placement.trainer,
        "monitor": () if placement.monitor is None else (placement.monitor,),
    }  # fmt: skip
    return {name: [of(worker) for worker in workers] for name, workers in groups.items()}


def _in_turn(
    kind: str, placement: Placement, on_gpu: bool, works: Mapping[Phase, Parts], idle: Parts
) -> dict[Phase, Parts]:
    """Return a worker's memory in each phase: asleep while others use its GPU, else as it works.

    `works` has the phases in which it works; `idle` is its memory in the others.
    """
    asleep = {"other": Part(CONTEXT if on_gpu else 0)}
    found: dict[Phase, Parts] = {}
    for phase in PHASES:
        gone = placement.colocated and phase not in works
        gone |= phase == "measure" and kind in placement.monitor_with
        found[phase] = asleep if gone else works.get(phase, idle)
    return found


def _rollout(
    config: RunConfig,
    sizes: RunSizes,
    placement: Placement,
    memory: int,
    number: int,
    gpus: tuple[int, ...],
) -> Process:
    size, policy, name = sizes.policy, config.policy, f"rollout {number}"
    if size is None:
        return Process(name, gpus, {phase: {} for phase in PHASES})
    element = _BYTES.get(policy.dtype, 2 if gpus else 4)
    weights, row = size.elements * element, row_tokens(config, size)[1]
    limit = None
    if not gpus:
        parts: Parts = {"weights": Part(weights), "KV cache": Part(_CPU_CACHE)}
    elif policy.engine == "transformers" or size.model_type in _NOT_BY_VLLM:
        batch = policy.max_num_seqs or 64
        prompts = inference_bytes(size, batch * row_tokens(config, size)[0])
        # sampling is done in double precision
        parts = {
            "weights": Part(weights),
            "KV cache": Part(batch * row * size.kv * element),
            "activations": Part(prompts + batch * size.vocabulary * 24),
            "other": Part(CONTEXT),
        }
    else:
        each = policy.tensor_parallel
        limit = int(memory * engine_share(config, colocated=placement.colocated))
        work = inference_bytes(size, _PREFILL) // each
        work += (policy.max_num_seqs or _SEQUENCES) * size.vocabulary * 4
        longest = (policy.max_model_len or size.context or row) * size.kv * element // each
        left = limit - weights // each - work - CONTEXT
        parts = {
            "weights": Part(weights // each),
            "activations": Part(work),
            "KV cache": Part(max(left, longest)),
            "other": Part(CONTEXT),
        }
    works: dict[Phase, Parts] = {"draw": parts}
    if config.policy.sync == "ipc":  # the cache sleeps, and a chunk is copied
        taking = {"weights": parts["weights"], "activations": Part(_chunk(size, element))}
        works["sync"] = taking | {"other": Part(CONTEXT)}
    turns = _in_turn("rollout", placement, bool(gpus), works, parts)
    host = weights if placement.colocated and gpus else 0 if gpus else total(parts)
    return Process(name, gpus, turns, host, limit)


def _reward(
    config: RunConfig,
    sizes: RunSizes,
    placement: Placement,
    memory: int,
    number: int,
    gpus: tuple[int, ...],
) -> Process:
    weights = served = most = least = 0
    row = row_tokens(config, sizes.policy)[1]
    for _, part in _loaded(config):
        size = sizes.rewards[part.model]
        if part.engine == "vllm" and gpus:
            served += int(memory * (part.gpu_memory or reward_share(config.rewards())))
            continue
        weights += size.elements * _reward_element(part, size, bool(gpus))
        tokens = part.batch_tokens or (_SCORED if gpus else _SCORED_CPU)
        # one after the other; a judge reads two responses at once
        alone = min(2 * row, part.max_length or 2 * row)
        element = 2 if gpus else 4
        most = max(most, inference_bytes(size, max(tokens, alone), element))
        least = max(least, inference_bytes(size, alone, element))
    models: dict[str, Part] = {"weights": Part(weights)} if weights else {}
    if served:
        models["KV cache"] = Part(served)
    if gpus:
        models["other"] = Part(CONTEXT)
    scoring = models | ({"activations": Part(most, least)} if most else {})
    works: dict[Phase, Parts] = {"draw": scoring}
    if config.overlap:  # the next batch is drawn and scored while the policy is trained and saved
        works |= {"train": scoring, "save": scoring}
    turns = _in_turn("reward", placement, bool(gpus), works, models)
    if served and placement.colocated:  # vLLM's reward models never sleep
        for phase, parts in turns.items():
            turns[phase] = {**parts, "KV cache": Part(served)}
    shared = bool(gpus) and (placement.colocated or "reward" in placement.monitor_with)
    host = weights if shared else 0 if gpus else total(scoring)
    return Process(f"reward {number}", gpus, turns, host)


def _reward_element(part: ModelSpec | PairwiseSpec, size: ModelSize, on_gpu: bool) -> int:
    """Return the bytes of a weight of a reward model.

    Its dtype is that of the settings, else on a GPU as published or as saved, on a CPU float32.
    """
    known = find_published(part.model)
    published = known[1].dtype if known is not None and on_gpu else None
    asked = part.dtype if part.dtype != "auto" else published
    return _BYTES[asked] if asked else size.saved_bytes if on_gpu else 4


def policy_training(config: RunConfig, size: ModelSize, on_gpu: bool) -> Training:
    """Return the settings of the policy's training, for the longest rows that the config allows."""
    settings, world = config.train, config.cluster.trainer_workers
    lora = settings.lora
    element = {"float32": 4, "bfloat16": 2, "auto": 2 if lora and on_gpu else 4}[settings.dtype]
    row = row_tokens(config, size)[1]
    tokens = min(row, settings.max_length or row)
    if settings.packing != "none":
        tokens = settings.max_length or row
    rows = settings.rows_per_forward(world)
    trained = size.adapters(lora.r, lora.target_modules) if lora else size.elements
    return Training(
        element=element,
        autocast=on_gpu and settings.dtype == "auto",
        trained=trained,
        lora=lora is not None,
        checkpointing=settings.gradient_checkpointing,
        tokens=tokens * rows * (2 if settings.update.kind == "dpo" else 1),
        optimizer=settings.optim,
        shards=world if settings.fsdp else 1,
        world=world,
        offload=settings.fsdp_offload,
        buckets=world > 1 and not settings.fsdp,
    )


def _trainer(
    config: RunConfig, sizes: RunSizes, placement: Placement, number: int, gpus: tuple[int, ...]
) -> Process:
    size, name = sizes.policy, f"trainer {number}"
    if size is None:
        return Process(name, gpus, {phase: {} for phase in PHASES})
    how = policy_training(config, size, bool(gpus))
    working = training_parts(size, how)
    idle = {key: working[key] for key in ("weights", "optimizer")}
    if gpus:
        idle["other"] = Part(CONTEXT)
    else:
        working.pop("other")
    saving = idle | {"activations": Part(_saving(config, size, how))}
    works: dict[Phase, Parts] = {"train": working, "save": saving}
    if config.policy.sync == "ipc":  # a buffer, and a tensor that is gathered or cast
        drawn = _BYTES.get(config.policy.dtype, 2)
        widest = size.vocabulary * size.hidden * drawn
        works["sync"] = idle | {"activations": Part(_chunk(size, drawn) + widest)}
    if config.overlap:
        works["draw"] = working
    turns = _in_turn("trainer", placement, bool(gpus), works, idle)
    resting = training_parts(size, replace(how, offload=False))
    asleep = sum(resting[key].bytes for key in ("weights", "optimizer"))
    if how.shards > 1:  # the first gathers all weights, and all read them when a run goes on
        asleep = max(asleep, size.elements * how.element)
    shared = placement.colocated or "trainer" in placement.monitor_with
    paged = working["optimizer"].bytes if working["optimizer"].least == 0 else 0
    host = total(working) if not gpus else asleep if shared or how.shards > 1 else paged
    return Process(name, gpus, turns, host)


def _chunk(size: ModelSize, element: int) -> int:
    """Return the bytes in which weights of `element` bytes are shared between processes at once."""
    return max(min(BUFFER, size.elements * element), size.vocabulary * size.hidden * element)


def _saving(config: RunConfig, size: ModelSize, how: Training) -> int:
    """Return the bytes that writing a checkpoint takes on top: with LoRA, a tensor, its change and
    their sum in float32; of shards, a gathered tensor."""
    lora = config.train.lora
    if lora is None:
        return 4 * size.ends if how.shards > 1 else 0
    widest = max((one * other for one, other in size.adapted(lora.target_modules)), default=0)
    return 3 * 4 * widest


def _monitor(
    config: RunConfig, sizes: RunSizes, placement: Placement, gpus: tuple[int, ...]
) -> Process:
    size = sizes.policy
    if size is None:
        return Process("monitor", gpus, {phase: {} for phase in PHASES})
    element = _BYTES.get(config.policy.dtype, 2 if gpus else 4)
    row = row_tokens(config, size)[1]
    most = MOST_LOGITS["cuda" if gpus else "cpu"]
    work = inference_bytes(
        size, min(MOST_TOKENS["cuda"], max(row, most // size.vocabulary)), element
    )
    logits = max(most, row * size.vocabulary) * element + 1024 * size.vocabulary * 12
    parts: dict[str, Part] = {
        "weights": Part(size.elements * element),
        "activations": Part(work + logits),
    }
    rest = {"other": Part(CONTEXT)} if gpus else {}
    turns: dict[Phase, Parts] = dict.fromkeys(PHASES, rest)
    turns["measure"] = parts | rest
    return Process("monitor", gpus, turns, 0 if gpus else total(parts))
