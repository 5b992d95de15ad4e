"""Which GPU the worker that measures policies computes on. Pure arithmetic, as `raft.placement`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from raft.executors import Resources
from raft.placement import Placement

__all__ = ["Seat", "find_seat"]

Beside = Literal["rollout", "reward", "trainer"]


@dataclass(frozen=True)
class Seat:
    """Its resources; who sleeps while it works; and the placement of all others, changed where it
    shares their GPU."""

    resources: Resources
    beside: tuple[Beside, ...]
    placement: Placement


def find_seat(placement: Placement, gpus: int, cores: int) -> Seat:
    """A GPU of its own where one is left; else that of a reward model, which is idle and light;
    else a trainer's. On shared GPUs it takes its turn. Without GPUs it has all cores: nobody else
    works then.
    """
    everyone = (*placement.rollout, *placement.reward, *placement.trainer)
    if not any(worker.gpus for worker in everyone):
        return Seat(Resources(threads=cores), (), placement)
    threads = placement.rollout[0].threads
    if placement.colocated:
        # generation and training have 0.4 of a GPU each, scoring 0.2
        reward = _halved(placement.reward) if placement.reward[0].gpus else placement.reward
        seat = Resources(threads=threads, gpus=0.1, gpu_slot=0)
        return Seat(seat, ("rollout", "reward"), replace(placement, reward=reward))
    if sum(worker.gpus for worker in everyone) + 1 <= gpus:
        return Seat(Resources(threads=threads, gpus=1), (), placement)
    seat = Resources(threads=threads, gpus=0.5, gpu_slot=0)
    if placement.reward and placement.reward[0].gpus:
        return Seat(seat, ("reward",), replace(placement, reward=_halved(placement.reward)))
    return Seat(seat, ("trainer",), replace(placement, trainer=_halved(placement.trainer)))


def _halved(workers: Sequence[Resources]) -> tuple[Resources, ...]:
    """The first gives half of its GPU away; which one it is must then be said."""
    first, *others = workers
    return (replace(first, gpus=first.gpus / 2, gpu_slot=0), *others)
