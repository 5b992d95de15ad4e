"""From a config to the parts of a run. The only place that reads config sections."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raft.config import RewardConfig, RunConfig
from raft.executors import Executor, InlineExecutor
from raft.placement import Placement, place
from raft.reward_pool import RewardPool
from raft.rollout_pool import Policy, RolloutPool
from raft.run_folder import RunFolder
from raft.trainer import build_trainer
from raft.trainer_pool import TrainerPool
from rollout.encode import encode_prompts
from rollout.engine import context_length
from rollout.prompts import read_prompts
from rollout.seeds import derive_seed
from rollout.types import InputError, Prompt, Sampling

log = logging.getLogger("raft")

# shares of a GPU's memory that vLLM may take where the config leaves it open
_OWN_GPU = 0.85
_SHARED_GPU = 0.5
# settings of rewards that name files
_SCORE_FILES = ("from", "reference", "verbosity_reference")


@dataclass(frozen=True)
class Pools:
    """The three kinds of workers; `take_turns` where they share GPUs. No trainer: none needed."""

    rollout: RolloutPool
    reward: RewardPool
    trainer: TrainerPool | None
    take_turns: bool
    on_gpu: bool
    reward_names: tuple[str, ...]


@contextlib.contextmanager
def start_pools(config: RunConfig, folder: RunFolder) -> Iterator[Pools]:
    """Start all workers at once, on the latest policy of the run; end them on leaving."""
    executor = _executor(config)
    try:
        placement = _placement(config, executor)
        log.info("workers: %s", placement.summary)
        yield _pools(config, folder, executor, placement)
    finally:
        executor.close()


def load_prompts(config: RunConfig) -> tuple[list[Prompt], list[Prompt]]:
    """Training and held-out prompts, encoded. No held-out prompt is ever trained on.

    Raises:
        InputError: files, rows, lengths; or too few prompts for what the config asks.
    """
    section = config.prompts
    prompts = read_prompts(
        section.path,
        format=section.format,
        column=section.column,
        split=section.split,
        separator=section.separator,
        first_words=section.first_words,
        limit=section.limit,
    )
    prompts = _encode(config, prompts)
    if isinstance(config.eval.prompts, str):
        held_out = read_prompts(
            config.eval.prompts,
            format=section.format,
            column=section.column,
            separator=section.separator,
            first_words=section.first_words,
        )
        return _without(prompts, held_out), _encode(config, held_out)
    return _hold_out(config, prompts, config.eval.prompts)


def digest(prompts: list[Prompt], held_out: list[Prompt]) -> str:
    """What a run's samples answer: ids, tokens and other columns of all prompts, in order."""
    found = hashlib.sha256()
    for section in (prompts, held_out):
        found.update(b"|")
        for prompt in section:
            found.update(repr((prompt.id, prompt.token_ids, prompt.fields)).encode())
    return found.hexdigest()


def train_sampling(config: RunConfig) -> Sampling:
    section = config.sampling
    return Sampling(
        k=section.k,
        temperature=section.temperature,
        top_p=section.top_p,
        top_k=section.top_k,
        max_new_tokens=section.max_new_tokens,
        min_new_tokens=section.min_new_tokens,
        stop=tuple(section.stop),
    )


def eval_sampling(config: RunConfig) -> Sampling:
    """As in training but for K and the temperature."""
    section, training = config.eval, train_sampling(config)
    temperature = training.temperature if section.temperature is None else section.temperature
    return Sampling(
        k=section.k,
        temperature=temperature,
        top_p=training.top_p,
        top_k=training.top_k,
        max_new_tokens=training.max_new_tokens,
        min_new_tokens=training.min_new_tokens,
        stop=training.stop,
    )


def check_model(model: str, key: str) -> None:
    """A model that looks like a folder must be one; anything else is left to the hub.

    Raises:
        InputError: the folder is missing, or is no model.
    """
    path = Path(model).expanduser()
    looks_local = path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1
    if looks_local and not path.is_dir():
        raise InputError(f"{key}: no such folder {model}; give a model folder or a hub name")
    if path.is_dir() and not any((path / f).exists() for f in ("config.json", "toy_policy.json")):
        raise InputError(f"{key}: {model} has no config.json, so it is no model folder")


def _executor(config: RunConfig) -> Executor:
    if config.cluster.address == "inline":
        return InlineExecutor()
    from raft.cluster import RayExecutor

    return RayExecutor(config.cluster.address)


def _placement(config: RunConfig, executor: Executor) -> Placement:
    cluster = config.cluster
    gpus = cluster.gpus
    if gpus is None:
        count = getattr(executor, "gpus", None)
        gpus = count() if count is not None else 0
    sections = [section for section in (config.reward, config.gold) if section is not None]
    models = [r for s in sections for r in s.everything() if r.kind in ("model", "pairwise")]
    return place(
        gpus=gpus,
        cores=len(os.sched_getaffinity(0)),
        rollout_workers=cluster.rollout_workers,
        reward_workers=cluster.reward_workers,
        trainer_workers=cluster.trainer_workers,
        tensor_parallel=config.policy.tensor_parallel,
        reward_on_gpu=bool(models),
        mode=cluster.placement,
    )


def _pools(config: RunConfig, folder: RunFolder, executor: Executor, placement: Placement) -> Pools:
    """All workers start side by side; on shared GPUs one after the other, the trainer to bed first:
    vLLM plans its memory by what it finds free."""
    version = folder.latest_version()
    checkpoint = str(folder.checkpoint(version)) if version else None
    trainer = None
    if version < config.iterations:
        trainer = _trainer(config, executor, placement, checkpoint)
        if placement.colocated:
            trainer.sleep()
    rewards = {"reward": reward_arguments(config.reward)}
    if config.gold is not None:
        rewards["gold"] = reward_arguments(config.gold)
    reward = RewardPool(executor, placement.reward, rewards, config.cluster.max_respawns)
    if placement.colocated:
        reward.wake()
    rollout = RolloutPool(
        executor,
        placement.rollout,
        _engine_arguments(config, placement.colocated),
        Policy(checkpoint or _local(config.policy.model), version),
        config.cluster.max_respawns,
    )
    return Pools(
        rollout, reward, trainer, placement.colocated, placement.rollout[0].gpus > 0, tuple(rewards)
    )


def _trainer(
    config: RunConfig, executor: Executor, placement: Placement, checkpoint: str | None
) -> TrainerPool:
    arguments = {"model": _local(config.policy.model), **_trainer_arguments(config)}
    if placement.trainer[0].gpus == 0 and config.cluster.address != "inline":
        arguments["threads"] = placement.trainer[0].threads
    return TrainerPool(
        executor,
        placement.trainer,
        build_trainer,
        arguments,
        checkpoint,
        config.cluster.max_respawns,
    )


def _engine_arguments(config: RunConfig, colocated: bool) -> dict[str, Any]:
    policy = config.policy
    return {
        "engine": policy.engine,
        "dtype": policy.dtype,
        "max_model_len": policy.max_model_len,
        "tensor_parallel": policy.tensor_parallel,
        "gpu_memory": policy.gpu_memory or (_SHARED_GPU if colocated else _OWN_GPU),
        "max_num_seqs": policy.max_num_seqs,
        "seed": derive_seed(config.seed, "engine"),
        "can_sleep": colocated,
    }


def _trainer_arguments(config: RunConfig) -> dict[str, Any]:
    return config.train.model_dump()


def reward_arguments(section: RewardConfig) -> dict[str, Any]:
    """What `rewards.build_reward` takes; paths made absolute: workers have their own directory."""
    return _absolute(section.settings())


def _absolute(settings: dict[str, Any]) -> dict[str, Any]:
    found = dict(settings)
    file, colon, name = str(found.get("function", "")).partition(".py:")
    if colon:
        found["function"] = f"{Path(file).resolve()}.py:{name}"
    for key in ("model", "tokenizer"):
        if key in found:
            found[key] = _local(found[key])
    for key in ("normalise", "debias"):
        if isinstance(found.get(key), dict):
            found[key] = {
                name: str(Path(value).resolve()) if name in _SCORE_FILES else value
                for name, value in found[key].items()
            }
    if "members" in found:
        found["members"] = [_absolute(member) for member in found["members"]]
    return found


def _local(model: str) -> str:
    path = Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() else model


def load_tokenizer(model: str) -> Any:
    """The policy's tokenizer; a toy policy has its own."""
    if (Path(model) / "toy_policy.json").exists():
        from rollout.toy_engine import read_toy

        return read_toy(model)[0]
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"policy.model: no tokenizer for {model} ({reason})") from error


def _encode(config: RunConfig, prompts: list[Prompt]) -> list[Prompt]:
    policy = config.policy
    return encode_prompts(
        prompts,
        load_tokenizer(_local(policy.model)),
        template=policy.template,
        max_model_len=policy.max_model_len or context_length(_local(policy.model)),
        max_new_tokens=config.sampling.max_new_tokens,
        max_prompt_tokens=config.prompts.max_tokens,
    )


def _hold_out(
    config: RunConfig, prompts: list[Prompt], count: int
) -> tuple[list[Prompt], list[Prompt]]:
    """A seeded choice of `count` prompts, and the others without any text that was chosen."""
    if count >= len(prompts):
        raise InputError(
            f"eval.prompts: holding out {count} of {len(prompts)} prompts leaves none to train on; "
            "lower it or give more prompts"
        )
    order = sorted(prompts, key=lambda p: derive_seed(config.seed, "held-out", p.id))
    held_out = order[:count]
    return _without(prompts, held_out), held_out


def _without(prompts: list[Prompt], held_out: list[Prompt]) -> list[Prompt]:
    """By text, not by id: corpora repeat themselves."""
    texts = {_text(prompt) for prompt in held_out}
    kept = [prompt for prompt in prompts if _text(prompt) not in texts]
    if not kept:
        raise InputError("eval.prompts: every training prompt is held out; give other prompts")
    return kept


def _text(prompt: Prompt) -> str:
    if isinstance(prompt.content, str):
        return prompt.content
    if len(prompt.content) == 1:  # the same question, asked as a message
        return prompt.content[0]["content"]
    return "\x1f".join(f"{m['role']}\x1e{m['content']}" for m in prompt.content)
