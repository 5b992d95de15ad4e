"""A Ray cluster: the free GPUs of its nodes, and the GPUs that a run reserves."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from ray._private.state import available_resources_per_node
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raft.workers.executors import Slot
from raft.workers.fork_server import worker_path
from raft.workers.placement import assign_nodes
from raft.workers.ray_start import start
from rollout.errors import InputError

log = logging.getLogger("raft")

_SETTLE_SECONDS = 10  # how long a run that has just ended may take to give its GPUs back
_PLACEMENT_SECONDS = 30
_ANSWER_SECONDS = 60
# prefixes of the environment variables that workers on other machines get from this process
_FORWARDED = ("HF_", "NCCL_", "VLLM_", "RAFT_", "CUDA_")
_NOT_FORWARDED = ("CUDA_VISIBLE_DEVICES",)  # Ray sets it for each worker


@dataclass(frozen=True)
class Node:
    address: str
    free: int
    gpus: int
    cores: int

    def __str__(self) -> str:
        return f"{self.address} ({self.free} of {self.gpus})"


@dataclass(frozen=True)
class Reservation:
    """The GPUs that a run holds; `nodes` and `threads` have an entry for every slot.

    `nodes` are the ids of the slots' nodes, `threads` the CPU threads of a worker in each slot.
    """

    group: PlacementGroup
    nodes: Sequence[str]
    threads: Sequence[int]

    def check(self, slot: int) -> None:
        """Check that the slot's node is alive: Ray would wait for a lost node for ever.

        Raises InputError where it is lost.
        """
        nodes = live_nodes()
        if self.nodes[slot] not in nodes:
            left = sum(one in nodes for one in self.nodes)
            raise InputError(
                "cluster",
                f"a node of the run is lost; left are {left} of its {len(self.nodes)} workers' "
                f"places, and free GPUs on {listed(nodes)}",
                "run the same command again: it goes on with the GPUs there are then",
            )


class RayCluster:
    """The cluster in which a `RayExecutor` starts workers; the arguments are described there."""

    def __init__(self, address: str, forward: Sequence[str]) -> None:
        local = address == "local"
        start(address)
        self._joined = not local
        forwarded = {} if local else _forwarded(forward)
        self.environment = forwarded | {"PYTHONPATH": os.pathsep.join(worker_path())}

    def gpus(self) -> int:
        """Return how many GPUs are free.

        Where some are in use, wait up to 10 s: they may be those of a run that has just ended.
        """
        until = time.monotonic() + _SETTLE_SECONDS
        while True:
            nodes = live_nodes().values()
            free, there = sum(node.free for node in nodes), sum(node.gpus for node in nodes)
            if free == there or time.monotonic() > until:
                break
            time.sleep(0.5)
        if free < there:
            log.info("%d of the %d GPUs are free: %s", free, there, listed(live_nodes()))
        return free

    def check_nodes(self, folder: Path | None) -> None:
        if not self._joined:
            return
        token = None if folder is None else folder / f".token-{uuid.uuid4().hex[:8]}"
        if token is not None:
            token.write_text(token.name)
        try:
            _ask_nodes(token, self.environment)
        finally:
            if token is not None:
                token.unlink()

    def reserve(self, slots: Sequence[Slot]) -> Reservation:
        until = time.monotonic() + _PLACEMENT_SECONDS
        while True:
            nodes = live_nodes()
            assigned = assign_nodes(slots, {name: node.free for name, node in nodes.items()})
            if assigned is not None:
                group = placement_group(
                    [{"GPU": slot.gpus} for slot in slots],
                    strategy="PACK",
                    bundle_label_selector=[{"ray.io/node-id": name} for name in assigned],
                )
                if group.wait(_PLACEMENT_SECONDS):
                    break
                remove_placement_group(group)
            if time.monotonic() > until:
                raise _does_not_fit(slots, nodes)
            time.sleep(0.5)
        threads = [max(1, nodes[one].cores // assigned.count(one)) for one in assigned]
        return Reservation(group, assigned, threads)


def live_nodes() -> dict[str, Node]:
    """Return the nodes of the cluster that are alive, by their ids."""
    free = available_resources_per_node()
    return {
        node["NodeID"]: Node(
            node["NodeManagerAddress"],
            int(free.get(node["NodeID"], {}).get("GPU", 0)),
            int(node["Resources"].get("GPU", 0)),
            int(node["Resources"].get("CPU", 1)),
        )
        for node in ray.nodes()
        if node["Alive"]
    }


def listed(nodes: Mapping[str, Node]) -> str:
    return ", ".join(str(node) for node in nodes.values())


def _does_not_fit(slots: Sequence[Slot], nodes: Mapping[str, Node]) -> InputError:
    wide = max(slot.gpus for slot in slots)
    parts = f"{sum(slot.gpus for slot in slots)} GPUs"
    parts += f", {wide} of them on one node" if wide > 1 else ""
    return InputError(
        "cluster",
        f"the workers need {parts}, and free on its nodes are {listed(nodes)}",
        "end what holds them, use fewer workers or a smaller policy.tensor_parallel",
    )


def _forwarded(names: Sequence[str]) -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if (name.startswith(_FORWARDED) and name not in _NOT_FORWARDED) or name in names
    }


def _ask_nodes(token: Path | None, environment: dict[str, str]) -> None:
    """Check that every node imports raft and sees the file `token` (None: no file is looked for).

    Raises InputError for a node that does not, or that starts no task within 60 s.
    """

    # a nested function: Ray pickles it, where it would import a module's function from raft
    def answer(path: str | None) -> str:
        try:
            import raft  # noqa: F401
        except ImportError as error:
            return f"cannot import raft ({error})"
        if path is None or os.path.exists(path):
            return ""
        return f"does not see {os.path.dirname(path)}"

    asked = ray.remote(answer)
    path = None if token is None else str(token)
    answers = {
        asked.options(
            num_cpus=0,
            max_retries=0,
            runtime_env={"env_vars": environment},
            scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False),
        ).remote(path): node.address
        for name, node in live_nodes().items()
    }
    ready, late = ray.wait(list(answers), num_returns=len(answers), timeout=_ANSWER_SECONDS)
    for reference in ready:
        said = ray.get(reference)
        if said:
            fix = "put it on a disk that all nodes share"
            fix = fix if "does not see" in said else "install raft-rlhf on every node"
            where = "run_dir" if "does not see" in said else "cluster"
            raise InputError(where, f"the node {answers[reference]} {said}", fix)
    for reference in late:
        raise InputError(
            "cluster",
            f"the node {answers[reference]} starts nothing within {_ANSWER_SECONDS} s",
            "see `ray status`",
        )
