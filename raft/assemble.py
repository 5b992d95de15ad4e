"""Build the parts of a run from its config: executor, worker groups, updates.

Workers get plain arguments; of the sections of a config only the trainers get theirs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from raft.resources import (
    all_imports,
    engine_share,
    place_workers,
    reward_share,
    token_variables,
    with_gpu_memory,
    with_imports,
    with_monitor,
)
from raft.runs.folder import RunFolder
from raft.updates.trainer import Update, build_trainer
from raft.workers.executors import Executor, Worker
from raft.workers.placement import Placement
from raft.workers.reward import RewardWorkers
from raft.workers.rollout import Policy, RolloutWorkers
from raft.workers.rollout_worker import BuildEngine
from raft.workers.trainer import TrainerWorkers
from rewards.checkpoints.hub import local_path
from rollout.seeds import derive_seed
from rollout.storage.settings import made_of

if TYPE_CHECKING:
    from raft.config.run import RunConfig
    from raft.monitor.kl import LogProbWorkers
    from rewards.spec import RewardSpec

log = logging.getLogger("raft")

_BATCH_GROUPS = 32
_BATCH_RESPONSES = 256


@dataclass(frozen=True)
class WorkerGroups:
    """The workers of a run, a group of each kind.

    `trainer` is None where nothing is left to train, `log_probs` where the monitor measures no
    policies. With `take_turns` the groups share GPUs, and those that are not at work sleep.
    """

    rollout: RolloutWorkers
    reward: RewardWorkers
    trainer: TrainerWorkers | None
    take_turns: bool
    log_probs: LogProbWorkers | None = None


@contextlib.contextmanager
def start_workers(config: RunConfig, folder: RunFolder) -> Iterator[WorkerGroups]:
    """Start the workers on the latest policy of the run, without waiting; end them on leaving."""
    executor = _executor(config)
    try:
        rewards = {name: one.absolute() for name, one in config.rewards().items()}
        executor.check_nodes(folder.root)
        there = executor.gpus()
        placement = place_workers(config, there, rewards)
        log.info("workers: %s", placement.summary)
        if (note := _kl_note(config)) is not None:
            log.info("monitor: %s", note)
        placement = with_imports(config, with_monitor(config, there, placement))
        executor.reserve(placement.slots)
        workers = _all_groups(config, folder, executor, placement, rewards)
        log_probs = _log_prob_workers(config, executor, placement, workers)
        yield replace(workers, log_probs=log_probs)
    finally:
        executor.close()


@contextlib.contextmanager
def start_drawing(config: RunConfig, rewards: Mapping[str, RewardSpec]) -> Iterator[WorkerGroups]:
    """Start workers that draw from the starting policy and score by `rewards`, possibly none.

    There is no trainer. The workers end on leaving.
    """
    executor = _executor(config)
    try:
        executor.check_nodes(None)
        placement = place_workers(config, executor.gpus(), rewards, trainers=0)
        log.info("workers: %s", placement.summary)
        placement = with_imports(config, placement)
        executor.reserve(placement.slots)
        policy = Policy(local_path(config.policy.model), version=0)
        # large groups in small batches: scoring must neither begin late nor end late
        groups = max(1, min(_BATCH_GROUPS, _BATCH_RESPONSES // config.sampling.k))
        yield _drawing_groups(config, executor, placement, rewards, policy, groups)
    finally:
        executor.close()


def record_models(config: RunConfig, folder: RunFolder) -> None:
    """Note in the run's folder what its numbers are made by: models, libraries, machine.

    Raises:
        InputError: other models were there when it began, or its last checkpoint is damaged.
    """
    from raft.runs.check import check_checkpoint
    from raft.runs.environment import describe_environment

    check_checkpoint(folder.policy(folder.latest_version()))
    rewards = [reward.given() for reward in config.rewards().values()]
    policy = made_of(config.policy.model, dates=False)
    folder.record_models(policy, made_of(rewards, dates=False))
    folder.write_environment(describe_environment())


def _executor(config: RunConfig) -> Executor:
    if config.cluster.address == "inline":
        from raft.workers.inline_executor import InlineExecutor

        return InlineExecutor(config.cluster.gpus)
    from raft.workers.ray_executor import RayExecutor

    tokens = token_variables(config.rewards().values())
    return RayExecutor(config.cluster.address, tokens, all_imports(config))


def _kl_note(config: RunConfig) -> str | None:
    sampling = config.eval_sampling
    if not config.monitor.measures_kl:
        return None
    if config.policy.tensor_parallel > 1:
        return "no KL to the starting policy: it is measured on one GPU, and this policy spans more"
    if sampling.temperature == 0:
        return "no KL to the starting policy: the held-out responses are greedy, not samples"
    cut = [
        name
        for name, cuts in (
            ("top_p", sampling.top_p < 1),
            ("top_k", sampling.top_k > 0),
            ("min_new_tokens", sampling.min_new_tokens > 0),
        )
        if cuts
    ]
    if not cut:
        return None
    return (
        f"eval/kl_* is of the whole distributions, and {' and '.join(cut)} "
        f"cut{'s' if len(cut) == 1 else ''} what is sampled: the estimates are biased"
    )


def _log_prob_workers(
    config: RunConfig, executor: Executor, placement: Placement, workers: WorkerGroups
) -> LogProbWorkers | None:
    if placement.monitor is None:
        return None
    from raft.monitor.kl import LogProbWorkers

    groups = {"rollout": workers.rollout, "reward": workers.reward, "trainer": workers.trainer}
    colocated = [group for name in placement.monitor_with if (group := groups[name]) is not None]
    return LogProbWorkers(
        executor,
        placement.monitor,
        start=local_path(config.policy.model),
        dtype=config.policy.dtype,
        neighbours=colocated,
        max_respawns=config.cluster.max_respawns,
        after=_first_of(workers.rollout, placement),
        stall_timeout=config.cluster.stall_timeout,
    )


def _all_groups(
    config: RunConfig,
    folder: RunFolder,
    executor: Executor,
    placement: Placement,
    rewards: Mapping[str, RewardSpec],
) -> WorkerGroups:
    """Start all workers. On shared GPUs the trainer starts first and goes to sleep: vLLM plans its
    memory by what it finds free."""
    version = folder.latest_version()
    policy = Policy(str(folder.policy(version) or local_path(config.policy.model)), version)
    trainer = None
    if version < config.iterations and placement.colocated:
        trainer = _trainer(config, folder, executor, placement)
        trainer.sleep()
    drawing = _drawing_groups(config, executor, placement, rewards, policy, _BATCH_GROUPS)
    if version < config.iterations and trainer is None:
        first = _first_of(drawing.reward, placement)
        trainer = _trainer(config, folder, executor, placement, first)
    return replace(drawing, trainer=trainer)


def _drawing_groups(
    config: RunConfig,
    executor: Executor,
    placement: Placement,
    rewards: Mapping[str, RewardSpec],
    policy: Policy,
    batch_groups: int,
) -> WorkerGroups:
    """Start the workers that draw and those that score."""
    from rewards.build import build_reward

    respawns = config.cluster.max_respawns
    if placement.reward and placement.reward[0].gpus:
        share = reward_share(rewards)
        rewards = {name: with_gpu_memory(one, share) for name, one in rewards.items()}
    builders = {name: partial(build_reward, spec) for name, spec in rewards.items()}
    stall = config.cluster.stall_timeout
    scoring = partial(
        RewardWorkers, executor, placement.reward, builders, respawns, batch_groups,
        stall_timeout=stall, labels={name: spec.label for name, spec in rewards.items()},
    )  # fmt: skip
    engine = _engine(config, placement.colocated)
    drawing = partial(RolloutWorkers, executor, placement.rollout, engine, policy, respawns, stall)
    if placement.colocated:  # a reward model has its memory before vLLM plans its own
        reward = scoring()
        reward.wake()
        rollout = drawing()
    else:
        rollout = drawing()
        reward = scoring()
    return WorkerGroups(rollout, reward, trainer=None, take_turns=placement.colocated)


def _first_of(group: RolloutWorkers | RewardWorkers, placement: Placement) -> Worker[object] | None:
    """Return the worker that the next one to start waits for; None on GPUs.

    Imports take a core for seconds. Where cores are few, reward workers and trainer start one after
    the other beside the engine, which takes longest.
    """
    return None if placement.rollout[0].gpus else group.first


def update_of(config: RunConfig, folder: RunFolder, iteration: int) -> Update:
    """Return what the trainer needs for the update of an iteration: rows, seed, and the policy
    that drew the rows where it is not the one that is trained."""
    selected, drew = folder.iteration(iteration) / "selected.jsonl", None
    if (version := folder.policy(config.drawn_by(iteration))) != folder.policy(iteration - 1):
        drew = str(version or local_path(config.policy.model))
    return Update(str(selected), derive_seed(config.seed, "train", iteration), drawn_by=drew)


def _trainer(
    config: RunConfig,
    folder: RunFolder,
    executor: Executor,
    placement: Placement,
    after: Worker[object] | None = None,
) -> TrainerWorkers:
    own_process = config.cluster.address != "inline"
    threads = (
        placement.trainer[0].threads if own_process and not placement.trainer[0].gpus else None
    )
    build = partial(build_trainer, local_path(config.policy.model), config.train, threads=threads)
    cluster = config.cluster
    begun, since = folder.trained_from(folder.latest_version(), weights=config.train.fresh)
    return TrainerWorkers(
        executor, placement.trainer, build, begun and str(begun), cluster.max_respawns, after,
        cluster.stall_timeout, [update_of(config, folder, iteration) for iteration in since],
    )  # fmt: skip


def _engine(config: RunConfig, colocated: bool) -> BuildEngine:
    from rollout.engines.base import AdapterSync, build_engine

    policy, lora = config.policy, config.train.lora
    return partial(
        build_engine,
        adapter=AdapterSync(local_path(policy.model), lora.r, policy.lora_sync) if lora else None,
        engine=policy.engine,
        dtype=policy.dtype,
        max_model_len=policy.max_model_len,
        tensor_parallel=policy.tensor_parallel,
        gpu_memory=engine_share(config, colocated=colocated),
        max_num_seqs=policy.max_num_seqs,
        seed=derive_seed(config.seed, "engine"),
        can_sleep=colocated,
        sync=policy.sync,
        vllm=policy.vllm,
    )
