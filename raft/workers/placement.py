"""Who gets which GPU: rollout workers, reward models, trainers, and the worker that measures
policies for the monitor. Pure arithmetic: no Ray, no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from raft.workers.executors import Resources
from rollout.types import InputError

Colocation = Literal["rollout", "reward", "trainer"]


@dataclass(frozen=True)
class Placement:
    """The resources of every worker; `colocated` means that GPUs are shared in turn by sleeping.

    `monitor` is None where no policies are measured; `monitor_with` names the groups that sleep
    while they are.
    """

    rollout: tuple[Resources, ...]
    reward: tuple[Resources, ...]
    trainer: tuple[Resources, ...]
    colocated: bool
    summary: str
    monitor: Resources | None = None
    monitor_with: tuple[Colocation, ...] = ()


def place(
    *,
    gpus: int,
    cores: int,
    rollout_workers: int,
    reward_workers: int,
    trainer_workers: int,
    tensor_parallel: int = 1,
    reward_on_gpu: bool = True,
    mode: str = "auto",
) -> Placement:
    """Divide `gpus` GPUs and `cores` CPU cores.

    separate: every worker has GPUs of its own; generation, scoring and training keep their memory.
    colocated: workers share GPUs and take turns, the idle ones asleep in CPU memory.
    auto: separate where it fits, else colocated. Without GPUs, threads are divided instead.

    Examples with one worker of each: 1 GPU is colocated; 4 GPUs with rollout_workers=2 are separate
    (2 + 1 + 1); 8 GPUs with rollout_workers=4, reward_workers=1, trainer_workers=3 are separate.

    Raises:
        InputError: the workers asked for do not fit the GPUs.
    """
    if gpus == 0:
        return _on_cpu(cores, rollout_workers, reward_workers, trainer_workers)
    rewards_on_gpu = reward_workers if reward_on_gpu else 0
    wanted = rollout_workers * tensor_parallel + rewards_on_gpu + trainer_workers
    if mode == "separate" and wanted > gpus:
        raise InputError(
            "cluster.placement",
            f"separate needs {wanted} GPUs (rollout {rollout_workers} × {tensor_parallel}, "
            f"reward {rewards_on_gpu}, trainer {trainer_workers}), there are {gpus}",
            "use fewer workers or colocated",
        )
    threads = max(1, cores // max(wanted, 1))
    if mode == "separate" or (mode == "auto" and wanted <= gpus):
        own = Resources(threads=threads, gpus=1)
        return Placement(
            rollout=(Resources(threads=threads, gpus=tensor_parallel),) * rollout_workers,
            reward=(own if reward_on_gpu else Resources(threads=threads),) * reward_workers,
            trainer=(own,) * trainer_workers,
            colocated=False,
            summary=f"{wanted} of {gpus} GPUs, each worker on its own",
        )
    return _colocated(
        gpus,
        threads,
        rollout_workers,
        reward_workers,
        trainer_workers,
        tensor_parallel,
        reward_on_gpu,
    )


def _on_cpu(cores: int, rollout: int, reward: int, trainer: int) -> Placement:
    # generation and training take turns, so each may use every core; scoring runs beside
    # generation and gets half
    return Placement(
        rollout=_shares(cores, rollout),
        reward=_shares(cores // 2, reward),
        trainer=_shares(cores, trainer),
        colocated=False,
        summary=f"no GPU: {cores} CPU cores",
    )


def _shares(cores: int, workers: int) -> tuple[Resources, ...]:
    return (Resources(threads=max(1, cores // max(1, workers))),) * workers


def _colocated(
    gpus: int,
    threads: int,
    rollout: int,
    reward: int,
    trainer: int,
    tensor_parallel: int,
    reward_on_gpu: bool,
) -> Placement:
    if tensor_parallel > 1:
        raise InputError(
            "policy.tensor_parallel",
            "an engine over several GPUs cannot share them",
            "use placement: separate or tensor_parallel: 1",
        )
    for name, workers in (("rollout", rollout), ("reward", reward), ("trainer", trainer)):
        if workers > gpus:
            raise InputError(
                f"cluster.{name}_workers",
                f"{workers} on {gpus} GPU(s)",
                "at most one of a kind per GPU",
            )

    def shared(count: int, share: float) -> tuple[Resources, ...]:
        return tuple(
            Resources(threads=threads, gpus=share, gpu_slot=number) for number in range(count)
        )

    return Placement(
        rollout=shared(rollout, 0.4),
        reward=shared(reward, 0.2) if reward_on_gpu else (Resources(threads=threads),) * reward,
        trainer=shared(trainer, 0.4),
        colocated=True,
        summary=f"{gpus} GPU(s) shared: generation, scoring and training take turns",
    )


def place_monitor(placement: Placement, gpus: int, cores: int) -> Placement:
    """Find room for the worker that measures policies.

    It gets a GPU of its own where one is left; else half of a reward model's, which is idle and
    light; else half of a trainer's. On shared GPUs it takes its turn. Without GPUs it has all
    cores, since nobody else works then.
    """
    everyone = (*placement.rollout, *placement.reward, *placement.trainer)
    if not any(worker.gpus for worker in everyone):
        return replace(placement, monitor=Resources(threads=cores))
    threads = placement.rollout[0].threads
    reward_on_gpu = bool(placement.reward) and placement.reward[0].gpus > 0
    if placement.colocated:
        # generation and training have 0.4 of a GPU each, scoring 0.2
        return replace(
            placement,
            reward=_halved(placement.reward) if reward_on_gpu else placement.reward,
            monitor=Resources(threads=threads, gpus=0.1, gpu_slot=0),
            monitor_with=("rollout", "reward"),
        )
    if sum(worker.gpus for worker in everyone) + 1 <= gpus:
        return replace(placement, monitor=Resources(threads=threads, gpus=1))
    half = Resources(threads=threads, gpus=0.5, gpu_slot=0)
    if reward_on_gpu:
        reward = _halved(placement.reward)
        return replace(placement, reward=reward, monitor=half, monitor_with=("reward",))
    trainer = _halved(placement.trainer)
    return replace(placement, trainer=trainer, monitor=half, monitor_with=("trainer",))


def _halved(workers: Sequence[Resources]) -> tuple[Resources, ...]:
    """The first gives half of its GPU away; which one it is must then be said."""
    first, *others = workers
    return (replace(first, gpus=first.gpus / 2, gpu_slot=0), *others)
