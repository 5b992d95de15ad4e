"""Which GPU each worker gets: rollout workers, reward models, trainers, and the worker that
measures policies for the monitor. Pure arithmetic: no Ray, no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from raft.workers.executors import Resources, Slot
from rollout.engines.transfer import Sync
from rollout.types import InputError

# Ray hides no GPU from a worker that asks for none, and libraries use the GPUs that they see
_NO_GPU = (("CUDA_VISIBLE_DEVICES", ""),)

Colocation = Literal["rollout", "reward", "trainer"]


@dataclass(frozen=True)
class Placement:
    """The resources of every worker; `colocated` means that workers share GPUs and take turns, the
    idle ones asleep.

    `monitor` is None where no policies are measured; `monitor_with` names the groups that sleep
    while policies are measured.
    """

    rollout: tuple[Resources, ...]
    reward: tuple[Resources, ...]
    trainer: tuple[Resources, ...]
    colocated: bool
    summary: str
    monitor: Resources | None = None
    monitor_with: tuple[Colocation, ...] = ()

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots of all workers, in the order of the numbers that their resources name."""
        found: dict[int, Slot] = {}
        alone = (self.monitor,) if self.monitor is not None else ()
        for workers, trains in (
            (self.rollout, False), (self.reward, False), (alone, False), (self.trainer, True),
        ):  # fmt: skip
            for one in workers:
                if one.slot is not None:
                    before = found.get(one.slot, Slot(1))
                    gpus = max(before.gpus, int(one.gpus))
                    found[one.slot] = Slot(gpus, trains or before.trains)
        return tuple(found[number] for number in range(len(found)))


def place(
    *,
    gpus: int,
    cores: int,
    rollout_workers: int,
    reward_workers: int,
    trainer_workers: int,
    tensor_parallel: int = 1,
    reward_on_gpu: bool = True,
    reward_sleeps: bool = True,
    mode: str = "auto",
    sync: Sync = "auto",
) -> Placement:
    """Divide `gpus` GPUs and `cores` CPU cores among the workers, and return their resources.

    separate: every worker has GPUs of its own; generation, scoring and training keep their memory.
    colocated: workers share GPUs and take turns, the idle ones asleep in CPU memory.
    auto: separate where it fits, else colocated. Without GPUs, threads are divided instead.

    Examples with one worker of each: 1 GPU is colocated; 4 GPUs with rollout_workers=2 are separate
    (2 + 1 + 1); 8 GPUs with rollout_workers=4, reward_workers=1, trainer_workers=3 are separate.

    Args:
        reward_sleeps: whether reward models can leave their GPU while other workers use it.
        sync: nccl: trainers send weights to engines, so they share no GPUs; ipc: they share them.

    Raises:
        InputError: the workers asked for do not fit the GPUs.
    """
    if gpus == 0:
        _check_sync(sync, 0, False, 0, 0)
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
    apart = mode == "separate" or (mode == "auto" and wanted <= gpus)
    _check_sync(sync, gpus, not apart, rollout_workers, trainer_workers)
    if apart:
        beside = (Resources(threads=threads),) * reward_workers
        trainers_begin = rollout_workers + rewards_on_gpu
        return Placement(
            rollout=_own(0, rollout_workers, threads, tensor_parallel),
            reward=_own(rollout_workers, rewards_on_gpu, threads) if reward_on_gpu else beside,
            trainer=_own(trainers_begin, trainer_workers, threads),
            colocated=False,
            summary=f"{wanted} of {gpus} GPUs, each worker on its own",
        )
    turns = f"the workers would take turns on {gpus} GPU(s)"
    if reward_on_gpu and not reward_sleeps:
        fix = f"use engine: transformers, or {wanted} GPUs and placement: separate"
        raise InputError("reward.engine", f"vllm keeps its memory, and {turns}", fix)
    counts = (rollout_workers, reward_workers, trainer_workers)
    return _colocated(gpus, threads, *counts, tensor_parallel, reward_on_gpu)


def _check_sync(sync: Sync, gpus: int, colocated: bool, rollout: int, trainer: int) -> None:
    """Check that trainers and engines are on the GPUs, none in common or all, that `sync` needs."""
    if sync == "nccl" and (colocated or not gpus):
        problem = f"the workers would take turns on {gpus} GPU(s)" if gpus else "there is none"
        between = "nccl is between GPUs of trainers and engines"
        raise InputError("policy.sync", f"{between}, and {problem}", "use disk")
    if sync == "ipc" and not colocated:
        problem = "would have GPUs of their own" if gpus else "have none"
        fix = "use cluster.placement: colocated, or nccl" if gpus else "use disk"
        between = "ipc is between a trainer and an engine on one GPU"
        raise InputError("policy.sync", f"{between}, and they {problem}", fix)
    if sync == "ipc" and trainer != rollout:
        raise InputError(
            "cluster.trainer_workers",
            f"{trainer} for {rollout} engine(s), and policy.sync: ipc needs one trainer on the GPU "
            "of every engine",
            f"set it to {rollout}, or policy.sync: disk",
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


def _own(first: int, workers: int, threads: int, gpus: int = 1) -> tuple[Resources, ...]:
    """Return the resources of workers with a slot of `gpus` GPUs each, numbered from `first`."""
    numbers = range(first, first + workers)
    return tuple(Resources(threads=threads, gpus=gpus, slot=number) for number in numbers)


def _shares(cores: int, workers: int) -> tuple[Resources, ...]:
    threads = max(1, cores // max(1, workers))
    return (Resources(threads=threads, environment=_NO_GPU),) * workers


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
        return tuple(Resources(threads=threads, gpus=share, slot=number) for number in range(count))

    return Placement(
        rollout=shared(rollout, 0.4),
        reward=shared(reward, 0.2) if reward_on_gpu else (Resources(threads=threads),) * reward,
        trainer=shared(trainer, 0.4),
        colocated=True,
        summary=f"{gpus} GPU(s) shared: generation, scoring and training take turns",
    )


def place_monitor(
    placement: Placement, gpus: int, cores: int, *, reward_sleeps: bool = True
) -> Placement:
    """Return the placement with room for the worker that measures policies.

    That worker gets a GPU of its own where one is left; else half of a reward model's GPU, if the
    model can sleep (it is idle then, and small); else half of a trainer's. On colocated GPUs it
    takes its turn. Without GPUs it has all cores, since no other worker runs then.
    """
    everyone = (*placement.rollout, *placement.reward, *placement.trainer)
    if not any(worker.gpus for worker in everyone):
        return replace(placement, monitor=Resources(threads=cores, environment=_NO_GPU))
    threads = placement.rollout[0].threads
    reward_on_gpu = bool(placement.reward) and placement.reward[0].gpus > 0
    if placement.colocated:
        # generation and training have 0.4 of a GPU each, scoring 0.2
        return replace(
            placement,
            reward=_halved(placement.reward) if reward_on_gpu else placement.reward,
            monitor=Resources(threads=threads, gpus=0.1, slot=0),
            monitor_with=("rollout", "reward"),
        )
    if sum(worker.gpus for worker in everyone) + 1 <= gpus:
        (monitor,) = _own(len(placement.slots), 1, threads)
        return replace(placement, monitor=monitor)
    if reward_on_gpu and reward_sleeps:
        reward = _halved(placement.reward)
        return replace(placement, reward=reward, monitor=reward[0], monitor_with=("reward",))
    trainer = _halved(placement.trainer)
    return replace(placement, trainer=trainer, monitor=trainer[0], monitor_with=("trainer",))


def _halved(workers: Sequence[Resources]) -> tuple[Resources, ...]:
    """Return the resources of the same workers, the first of them with half of its GPU."""
    first, *others = workers
    return (replace(first, gpus=first.gpus / 2), *others)


def assign_nodes(slots: Sequence[Slot], free: Mapping[str, int]) -> list[str] | None:
    """Return a node for every slot, given the free GPUs of each node; None where they do not fit.

    All trainers are put on one node where a node has room for them, else on few. Engines are
    spread: each goes to the node with the most free GPUs.
    """
    if not free:
        return None if slots else []
    trains = [number for number, slot in enumerate(slots) if slot.trains]
    together = sum(slots[number].gpus for number in trains)
    # the fullest node that has room for all trainers leaves most for the others; last: on several
    homes = sorted((node for node in free if free[node] >= together), key=lambda node: free[node])
    for home in (*homes, None):
        if (found := _assigned(slots, free, trains, home)) is not None:
            return found
    return None


def _assigned(
    slots: Sequence[Slot], free: Mapping[str, int], trains: Sequence[int], home: str | None
) -> list[str] | None:
    left, found = dict(free), dict[int, str]()

    def put(number: int, node: str | None) -> bool:
        """Put a slot on `node`, or where that is None or full, on the node with the most free GPUs.

        Return whether the slot fits there.
        """
        if node is None or left[node] < slots[number].gpus:
            node = max(left, key=lambda one: left[one])
        left[node] -= slots[number].gpus
        found[number] = node
        return left[node] >= 0

    # wide engines before those that fit anywhere
    others = sorted(set(range(len(slots))) - set(trains), key=lambda number: -slots[number].gpus)
    if home is not None and not all(put(number, home) for number in trains):
        return None
    if not all(put(number, None) for number in others):
        return None
    node = None
    for number in trains if home is None else ():
        if not put(number, node):
            return None
        node = found[number]
    return [found[number] for number in range(len(slots))]
