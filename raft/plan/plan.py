"""The plan of a run or of a reward model's training, and the check that it fits."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from raft.plan.memory import (
    GIB,
    PHASES,
    Parts,
    Phase,
    Process,
    needed,
    optimizer_bytes,
    total,
)
from raft.plan.remedies import run_changes, what_would_fit
from raft.plan.run import RunSizes, place_run, policy_training, run_processes
from raft.plan.sizes import UnknownSizeError
from raft.plan.tokens import Tokens, count_tokens, has_control
from rollout.errors import InputError

if TYPE_CHECKING:
    from raft.config.run import RunConfig
    from raft.workers.placement import Placement

log = logging.getLogger("raft")

__all__ = [
    "DEFAULT_MEMORY", "Disk", "GpuUse", "Plan", "check_fits", "check_plan", "free",
    "machine_gpus", "plan_run", "refuse_what_cannot_fit",
]  # fmt: skip

DEFAULT_MEMORY = 79.2  # GiB, what torch gets of an H100 of 80 GB
# for estimates of hours: an H100's FLOP/s in bfloat16, and the share that each kind of work uses
PEAK_FLOPS = 989e12
ASSUMED_MFU = {"drawing": 0.1, "scoring": 0.4, "training": 0.35}
_DRIVER = 0.45  # GiB of an H100 that the driver reports, but torch cannot use
_ROW_BYTES = 11  # of a stored token: its id, and four letters with their quotes
_DOING: dict[Phase, str] = {
    "draw": "drawing and scoring", "train": "training", "save": "saving the policy",
    "sync": "giving engines the weights", "measure": "measuring the KL",
}  # fmt: skip


@dataclass(frozen=True)
class Disk:
    """The disk that a run needs: bytes of a checkpoint and of the stored samples, free bytes.

    `at_once` is the most checkpoints that exist at the same time.
    """

    checkpoint: int
    at_once: int
    samples: int
    free: int

    @property
    def most(self) -> int:
        return self.at_once * self.checkpoint + self.samples


@dataclass(frozen=True)
class GpuUse:
    """One GPU in one phase: the bytes that are used on it, and the least that are enough."""

    gpu: int
    phase: Phase
    bytes: int
    least: int


@dataclass(frozen=True)
class Plan:
    """The needs of a config. `memory` is a GPU's, in bytes; `tokens` are given for each `step`."""

    summary: str
    gpus: int
    memory: int
    processes: tuple[Process, ...]
    disk: Disk
    tokens: tuple[Tokens, ...]
    step: str = "iteration"
    hours: Mapping[str, float] | None = None  # of all iterations, by estimate

    def uses(self) -> list[GpuUse]:
        """Return the use of every GPU in every phase in which a process is on it."""
        found: list[GpuUse] = []
        for gpu in sorted({one for process in self.processes for one in process.gpus}):
            here = [process for process in self.processes if gpu in process.gpus]
            for phase in PHASES:
                parts = [process.phases[phase] for process in here if phase in process.phases]
                if not parts:
                    continue
                most, least = sum(map(total, parts)), sum(map(needed, parts))
                # parts that can shrink take the memory that the others leave
                found.append(GpuUse(gpu, phase, max(least, min(most, self.memory)), least))
        return found

    def host(self) -> int:
        """Return the bytes of CPU memory of all processes."""
        return sum(process.host for process in self.processes)

    def counted(self) -> Plan:
        """Return the plan without estimated parts; if that does not fit, the config cannot."""
        return replace(self, processes=tuple(process.counted() for process in self.processes))

    def problem(self) -> tuple[str, str] | None:
        """Return (config key, the worst of what does not fit); None where everything fits."""
        limited = [one for one in self.processes if one.limit is not None]
        process = max(limited, key=lambda one: one.excess, default=None)
        if process is not None and process.excess > 0:
            return "policy.gpu_memory", (
                f"an engine has {_gib(process.limit or 0)} GiB of its GPU, and takes "
                f"{_gib(total(process.peak()))} with one of the longest sequences"
            )
        use = max(self.uses(), key=lambda one: one.least, default=None)
        if use is None or use.least <= self.memory:
            return None
        here = [one for one in self.processes if use.gpu in one.gpus]
        most = max(here, key=lambda one: needed(one.phases.get(use.phase, {})))
        keys = {"rollout": "policy.model", "reward": "reward.model", "trainer": "train"}
        key = keys.get(most.name.partition(" ")[0], "monitor")
        return key, (
            f"{_DOING[use.phase]} takes {_gib(use.least)} GiB on GPU {use.gpu}, which has "
            f"{_gib(self.memory)} ({most.name}: {_named(most.phases[use.phase])})"
        )

    def notes(self) -> list[str]:
        """Return lines on what fits only with smaller batches or paging, and on a disk too full."""
        found: list[str] = []
        alike: dict[str, list[int]] = {}
        for use in self.uses():
            here = [process for process in self.processes if use.gpu in process.gpus]
            short = sum(total(one.phases.get(use.phase, {})) for one in here) - self.memory
            if short <= 0 or use.least > self.memory:
                continue
            states = [one.phases.get(use.phase, {}).get("optimizer") for one in here]
            paged = any(state is not None and state.least == 0 for state in states)
            way = "of the optimizer go to CPU memory" if paged else "too much: batches are halved"
            alike.setdefault(f"{_DOING[use.phase]}: {_gib(short)} GiB {way}", []).append(use.gpu)
        for text, gpus in alike.items():
            found.append(f"GPU {', '.join(map(str, gpus))}, {text}")
        if self.disk.most > self.disk.free:
            found.append(
                f"disk: up to {self.disk.most / 1e9:,.0f} GB are written, "
                f"{self.disk.free / 1e9:,.0f} are free"
            )
        return found


def machine_gpus() -> tuple[int, float]:
    """Return how many GPUs this machine has, and the GiB of the smallest that torch can use.

    nvidia-smi is asked: torch would take memory of a GPU to answer. (0, 0) without GPUs.
    """
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return 0, 0.0
    query = [smi, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    said = subprocess.run(query, capture_output=True, text=True, check=False)
    sizes = [int(line) for line in said.stdout.split() if line.isdecimal()]
    if said.returncode or not sizes:
        return 0, 0.0
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = len(sizes) if named is None else len([one for one in named.split(",") if one.strip()])
    return min(count, len(sizes)), min(sizes) / 1024 - _DRIVER


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}"


def _named(parts: Parts) -> str:
    held = {name: part.needed for name, part in parts.items() if part.needed >= GIB / 20}
    return ", ".join(f"{name} {_gib(size)}" for name, size in held.items())


def plan_run(config: RunConfig, gpus: int, memory: float, *, hub: bool = True) -> Plan:
    """Plan a run on `gpus` GPUs of `memory` GiB; 0 is the CPU.

    Raises:
        InputError: the workers do not fit the GPUs, or the size of a model cannot be determined.
    """
    placement = place_run(config, gpus)
    sizes = RunSizes.of(config, hub=hub)
    held = int(memory * GIB)
    return Plan(
        summary=placement.summary,
        gpus=gpus,
        memory=held,
        processes=tuple(run_processes(config, sizes, placement, held)),
        disk=_disk(config, sizes, gpus > 0),
        tokens=tuple(count_tokens(config, sizes)),
        hours=_hours(config, sizes, placement) if gpus else None,
    )


def _hours(config: RunConfig, sizes: RunSizes, placement: Placement) -> dict[str, float] | None:
    """Return the hours of drawing, scoring and training, by tokens and `ASSUMED_MFU`, unmeasured.

    None for a toy policy.
    """
    if sizes.policy is None:
        return None
    tokens = {one.kind: one.whole or 0 for one in count_tokens(config, sizes)}
    policy, rewards = sizes.policy.elements, [one.elements for one in sizes.rewards.values()]
    train = config.train
    # forward 2, gradients of activations 2, of weights 2, and forward once more
    passes = 2 + 2 + 2 * (train.lora is None) + 2 * train.gradient_checkpointing
    work = {
        "drawing": 2 * policy * tokens["drawn"],
        # tokens are counted for every model that reads them
        "scoring": 2 * sum(rewards) / max(1, len(rewards)) * tokens["scored"],
        "training": passes * policy * tokens["trained"],
    }
    gpus = {
        "drawing": len(placement.rollout) * config.policy.tensor_parallel,
        "scoring": max(1, len(placement.reward)),
        "training": max(1, len(placement.trainer)),
    }
    speed = {kind: PEAK_FLOPS * ASSUMED_MFU[kind] * gpus[kind] for kind in work}
    return {kind: flops / speed[kind] / 3600 for kind, flops in work.items() if flops}


def check_plan(config: RunConfig, gpus: int, memory: float) -> None:
    """Check that a run fits `gpus` GPUs of `memory` GiB; 0 is the CPU.

    Raises InputError where it does not, with the settings or GPUs with which it would.
    """
    if (problem := plan_run(config, gpus, memory).problem()) is not None:
        fits = partial(_fits, memory=memory)
        raise InputError(*problem, what_would_fit(config, gpus, run_changes, fits))


def _disk(config: RunConfig, sizes: RunSizes, on_gpu: bool) -> Disk:
    size, checkpoint, samples = sizes.policy, 0, 0
    if size is not None:
        how = policy_training(config, size, on_gpu)
        checkpoint = size.elements * how.element + (how.trained * 4 if how.lora else 0)
        if not config.train.fresh:
            checkpoint += int(how.trained * optimizer_bytes(how.optimizer, how.gradient))
        samples = sum(one.whole or 0 for one in count_tokens(config, sizes) if one.kind == "drawn")
    # besides the newest `keep_checkpoints`: one being written, the best one, the newest where it is
    # not among them, and one that drew the rows which are trained on
    at_once = config.keep_checkpoints + 2 + (config.checkpoint.every > 1) + config.overlap
    if has_control(config):  # it begins when the run has written its last checkpoint
        at_once += at_once - 1 - config.overlap
    return Disk(checkpoint, at_once, samples * _ROW_BYTES, free(config.run_dir))


def free(run_dir: str) -> int:
    """Return the bytes that are free on the disk where a folder is, or will be."""
    path = Path(run_dir).absolute()
    return shutil.disk_usage(next(one for one in (path, *path.parents) if one.exists())).free


def _fits(config: RunConfig, gpus: int, memory: float) -> bool:
    try:
        config.train.check(on_gpu=gpus > 0, world_size=config.cluster.trainer_workers)
        return plan_run(config, gpus, memory).problem() is None
    except InputError:
        return False


def check_fits(config: RunConfig, *, hub: bool) -> None:
    """Check that a run fits the GPUs of this machine, if it has any and the run joins no cluster.

    Raises:
        InputError: the run cannot fit.
    """
    there, memory = machine_gpus()
    wanted = there if config.cluster.gpus is None else config.cluster.gpus
    gpus = min(there, wanted, 1 if config.cluster.address == "inline" else there)
    if not gpus or config.cluster.address not in ("inline", "local"):
        return
    refuse_what_cannot_fit(
        partial(plan_run, config, gpus, memory, hub=hub), partial(check_plan, config, gpus, memory)
    )


def refuse_what_cannot_fit(plan: Callable[[], Plan], refuse: Callable[[], None]) -> None:
    """Refuse, before a start, a plan that cannot fit, but none that might.

    A plan that only by estimate does not fit is a warning; one with a model of unknown size is not
    judged.

    Raises:
        InputError: that of `refuse`, where weights, gradients, optimizer or caches alone do not
            fit; or that of `plan`, for workers that do not fit the GPUs.
    """
    try:
        made = plan()
    except UnknownSizeError as error:
        log.info("memory is not planned: %s", error)
        return
    if made.counted().problem() is not None:
        refuse()
    if (problem := made.problem()) is not None:
        log.warning("by estimate, %s: %s", *problem)
