"""A Ray cluster: started or joined, what is free on its nodes, and what a run takes of it."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import ray_constants, services
from ray._private.state import available_resources_per_node
from ray.job_config import JobConfig
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raft.workers.executors import Slot
from raft.workers.placement import assign_nodes
from rollout.errors import InputError
from rollout.text.printable import one_line

log = logging.getLogger("raft")

# metadata only: samples are small, and weights travel through the run folder
_LOCAL_OBJECT_STORE_BYTES = 256 * 2**20
_CONNECT_SECONDS = 5
# how a client of gRPC begins, with an empty frame of settings; a server begins with such a frame
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS = 4
# open files: with fewer Ray's processes die one after another; enough for a machine of many cores
_FEWEST_FILES, _ENOUGH_FILES = 512, 65_536
_LEAST_SPACE = 32 * 2**20  # in Ray's folder, for its logs
_SETTLE_SECONDS = 10  # a run that has just ended gives its GPUs back
_PLACEMENT_SECONDS = 30
_ANSWER_SECONDS = 60
# what workers on other machines are told of this process's environment
_FORWARDED = ("HF_", "NCCL_", "VLLM_", "RAFT_", "CUDA_")
_NOT_FORWARDED = ("CUDA_VISIBLE_DEVICES",)  # which Ray sets for each


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
    """GPUs that a run holds: of every slot its node, and the CPU threads of a worker there."""

    group: PlacementGroup
    nodes: Sequence[str]
    threads: Sequence[int]

    def check(self, slot: int) -> None:
        """Raises InputError where the slot's node is gone: Ray would wait for it for ever."""
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
    """As `RayExecutor` says."""

    def __init__(self, address: str, forward: Sequence[str]) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # zero GPUs asked for means none wanted, not "hide them": Ray's own new default
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        local = address == "local"
        _allow_files()
        if local:
            _check_folder()
        logging.getLogger("ray").setLevel(logging.ERROR)
        if not local:
            address = _answering(address)
        try:
            with _own_signals():
                ray.init(
                    address=address,
                    job_config=_JobConfig(),
                    # only a cluster that starts here takes these two
                    include_dashboard=False if local else None,
                    object_store_memory=_LOCAL_OBJECT_STORE_BYTES if local else None,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    configure_logging=False,
                )
        except (RuntimeError, OSError) as error:
            if not local:
                raise _no_cluster(address) from error
            logs = f"{get_default_ray_temp_dir()}/session_latest/logs"
            problem = f"Ray does not start ({type(error).__name__}: {one_line(error)})"
            raise InputError("cluster", problem, f"see {logs}, or use address: inline") from error
        self._joined = not local
        forwarded = {} if local else _forwarded(forward)
        self.environment = forwarded | {"PYTHONPATH": os.pathsep.join(_path())}

    def gpus(self) -> int:
        """How many GPUs are free; where some are not, those of a run that has just ended may be."""
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
    """The nodes that are alive, by their ids."""
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
    """Raises InputError for a node that does not see the file, or cannot import us."""

    # a function within one: Ray would import any other from us over there, which is the question
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


def _path() -> list[str]:
    """Where workers look for modules: as this process, but for the script's folder and the working
    one. Python puts them first, where a user's types.py would end every worker; here they are last,
    unless PYTHONPATH names them."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    users = [os.path.dirname(os.path.abspath(script))] if script else []
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    last = [path for path in dict.fromkeys([*users, os.getcwd()]) if path not in named]
    return [*(path for path in sys.path if path and path not in last), *last]


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray sets its own way to end by SIGTERM, with a back-trace: what was set before stays."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    try:
        yield
    except SystemExit:  # by Ray's way, meanwhile
        if callable(before):
            before(signal.SIGTERM, None)
        raise
    finally:
        if callable(before):
            signal.signal(signal.SIGTERM, before)


class _JobConfig(JobConfig):
    """Ray puts the working directory before all else on the path of workers, where a user's
    datasets.py would be taken for the library. Ours comes by PYTHONPATH, the directory last."""

    _py_driver_sys_path = property(lambda _: [], lambda _, paths: None)


def _allow_files() -> None:
    """Raise the limit of open files as far as it may be. Raises InputError where that is few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH_FILES)
    if resource.RLIM_INFINITY != soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < _FEWEST_FILES:
        raise InputError(
            "ulimit -n",
            f"is {allowed} open files, and Ray's processes need {_FEWEST_FILES} or more",
            "raise it, or set cluster.address: inline",
        )


def _check_folder() -> None:
    """Raises InputError where Ray cannot write its logs, or workers die of the name of theirs."""
    if os.getcwd() != os.getcwdb().decode(errors="replace"):
        where, fix = "the working directory", "rename it, or set cluster.address: inline"
        raise InputError(where, "has a name that Ray cannot write as UTF-8", fix)
    folder = Path(get_default_ray_temp_dir())
    there = next(one for one in (folder, *folder.parents) if one.is_dir())
    try:
        disk = os.statvfs(there)
        problem = "cannot be written to" if not os.access(there, os.W_OK | os.X_OK) else None
        if disk.f_bavail * disk.f_frsize < _LEAST_SPACE or (disk.f_files and not disk.f_favail):
            problem = "no space left on the disk"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    if problem is not None:
        raise InputError(there, problem, "free some, or set RAY_TMPDIR to another folder")


def _answering(address: str) -> str:
    """The host:port of a cluster to join, where a server speaks gRPC: Ray itself tries for minutes.

    Raises:
        InputError: nothing does.
    """
    try:
        found = services.canonicalize_bootstrap_address(address)
    except (ConnectionError, ValueError) as error:
        raise _no_cluster(address) from error
    host, _, port = (found or "").rpartition(":")
    try:
        _greet(host.strip("[]"), int(port))
    except (OSError, ValueError) as error:
        raise _no_cluster(address if address == found else f"{found} ({address})") from error
    ray_constants.NUM_REDIS_GET_RETRIES = 1  # each takes half a minute where no Ray answers
    return str(found)


def _greet(host: str, port: int) -> None:
    """Raises OSError where no server of gRPC answers."""
    with socket.create_connection((host, port), timeout=_CONNECT_SECONDS) as server:
        if os.environ.get("RAY_USE_TLS", "0") in ("1", "true"):
            return  # it would not understand
        server.sendall(_GREETING)
        head = b""
        while len(head) < 4:  # a frame's length, then its kind
            if not (more := server.recv(4 - len(head))):
                raise ConnectionError("the connection was closed")
            head += more
        if head[3] != _SETTINGS:
            raise ConnectionError("it speaks another protocol")


def _no_cluster(address: str) -> InputError:
    return InputError(
        "cluster.address",
        f"no Ray cluster answers at {address}",
        "start one with `ray start --head` or use local",
    )
