"""Decide what the workers of a config get: GPUs, shares of GPU memory, libraries, tokens."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from raft.updates.trainer import trainer_imports
from raft.workers.executors import Resources
from raft.workers.fork_server import shared_server
from raft.workers.placement import Placement, place, place_monitor
from rollout.engines.base import TOY_FILE
from rollout.errors import InputError

if TYPE_CHECKING:
    from raft.config.run import RunConfig
    from rewards.spec import RewardSpec

# shares of a GPU's memory that vLLM may take where the config leaves it open
_OWN_GPU = 0.85
_SHARED_GPU = 0.5
_REWARDS_ON_GPU = 0.8  # of all reward models of a worker together
VLLM_IMPORTS = ("rollout.engines.vllm:import_vllm", "vllm.v1.worker.cpu_worker")


def place_workers(
    config: RunConfig,
    there: int,
    rewards: Mapping[str, RewardSpec] | None = None,
    trainers: int | None = None,
) -> Placement:
    """Assign the `there` GPUs to the workers.

    `rewards` and `trainers` take the place of the config's.

    Raises:
        InputError: the workers do not fit.
    """
    cluster = config.cluster
    rewards = config.rewards() if rewards is None else rewards
    return place(
        gpus=_gpus(config, there),
        cores=len(os.sched_getaffinity(0)),
        rollout_workers=cluster.rollout_workers,
        reward_workers=cluster.reward_workers if rewards else 0,
        trainer_workers=cluster.trainer_workers if trainers is None else trainers,
        tensor_parallel=config.policy.tensor_parallel,
        reward_on_gpu=any(reward.needs_gpu for reward in rewards.values()),
        reward_sleeps=not _on_vllm(rewards),
        mode="separate" if config.overlap else cluster.placement,
        sync="disk" if trainers == 0 else config.policy.sync,
    )


def _on_vllm(rewards: Mapping[str, RewardSpec]) -> int:
    """Count the models among the rewards that run on vLLM: they do not sleep."""
    parts = [part for reward in rewards.values() for part in reward.parts()]
    return sum(getattr(part, "engine", None) == "vllm" for part in parts)


def with_gpu_memory(reward: RewardSpec, share: float) -> RewardSpec:
    """Return the reward with `share` as the GPU memory of every model on vLLM that sets none."""
    if reward.kind == "combine":
        members = tuple(
            one.model_copy(update={"reward": with_gpu_memory(one.reward, share)})
            for one in reward.members
        )
        return reward.model_copy(update={"members": members})
    if (reward.kind == "model" or reward.kind == "pairwise") and reward.engine == "vllm":
        return reward.model_copy(update={"gpu_memory": reward.gpu_memory or share})
    return reward


def _gpus(config: RunConfig, there: int) -> int:
    """Return how many GPUs the workers share. Raises InputError for more than there are."""
    wanted = config.cluster.gpus
    if wanted is not None and wanted > there:
        raise InputError(
            "cluster.gpus", f"is {wanted}, but the cluster has {there} GPUs", "lower it"
        )
    return there if wanted is None else wanted


def with_monitor(config: RunConfig, there: int, placement: Placement) -> Placement:
    """Add the worker that measures KL and perplexity, where the config asks for either."""
    if kl_temperature(config) is None and config.monitor.reference_text is None:
        return placement
    gpus, cores = _gpus(config, there), len(os.sched_getaffinity(0))
    sleeps = not _on_vllm(config.rewards())
    return place_monitor(placement, gpus, cores, reward_sleeps=sleeps)


def kl_temperature(config: RunConfig) -> float | None:
    """Return the temperature of the held-out samples on which KL is measured; None where it is
    not measured."""
    temperature = config.eval_sampling.temperature
    on_one_gpu = config.policy.tensor_parallel == 1
    return temperature if config.monitor.measures_kl and on_one_gpu and temperature > 0 else None


def reward_share(rewards: Mapping[str, RewardSpec]) -> float:
    """Return the share of a GPU's memory that vLLM takes for each model that scores."""
    kinds = [part.kind for reward in rewards.values() for part in reward.parts()]
    return round(_REWARDS_ON_GPU / max(1, kinds.count("model") + kinds.count("pairwise")), 2)


def engine_share(config: RunConfig, *, colocated: bool) -> float:
    """Return the share of a GPU's memory that vLLM takes for the policy."""
    return config.policy.gpu_memory or (_SHARED_GPU if colocated else _OWN_GPU)


def _imports(config: RunConfig) -> dict[str, tuple[str, ...]]:
    """Return the slow imports of each kind of worker, in the order in which the kinds start."""
    policy, libraries = config.policy, ("transformers.models.auto.modeling_auto",)
    toy = (Path(policy.model) / TOY_FILE).exists()
    engine = libraries if policy.engine == "transformers" else VLLM_IMPORTS
    models = any(reward.needs_gpu for reward in config.rewards().values())
    return {
        "rollout": () if toy else engine,
        "reward": libraries if models else (),
        "trainer": () if toy else trainer_imports(config.train),
        "monitor": () if toy else libraries,
    }


def libraries_loading(config: RunConfig) -> AbstractContextManager[object]:
    """Load the slow imports of the workers in a fork server while the block runs, where workers
    can be forked: on one machine without GPUs."""
    imports = all_imports(config) if config.cluster.address == "local" else ()
    return shared_server(imports) if imports else nullcontext()


def all_imports(config: RunConfig) -> tuple[str, ...]:
    """Return the slow imports of all workers of a run, in the order in which they start."""
    return tuple(chain(*_imports(config).values()))


def with_imports(config: RunConfig, placement: Placement) -> Placement:
    imports = _imports(config)

    def told(kind: str, workers: tuple[Resources, ...]) -> tuple[Resources, ...]:
        return tuple(replace(one, imports=imports[kind]) for one in workers)

    monitor = placement.monitor
    return replace(
        placement,
        rollout=told("rollout", placement.rollout),
        reward=told("reward", placement.reward),
        trainer=told("trainer", placement.trainer),
        monitor=told("monitor", (monitor,))[0] if monitor is not None else None,
    )


def token_variables(rewards: Iterable[RewardSpec]) -> list[str]:
    """Return the environment variables that hold tokens of these rewards and of their parts."""
    parts = [part for reward in rewards for part in reward.parts()]
    return [name for part in parts if (name := getattr(part, "token_env", None))]
