"""The one module that knows Ray: workers as actors, results as object references."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, Generic, cast

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import ray_constants, services
from ray.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.job_config import JobConfig
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raft.workers.executors import P, R, Resources, W, Waiting, Worker
from rollout.engines.environment import SPIN_COUNT
from rollout.text.printable import one_line
from rollout.types import InputError, WorkerDiedError

if TYPE_CHECKING:
    from ray.actor import ActorHandle, ActorProxy

# metadata only: samples are small, and weights travel through the run folder
_LOCAL_OBJECT_STORE_BYTES = 256 * 2**20
_CONNECT_SECONDS = 5
# how a client of gRPC begins, with an empty frame of settings; a server begins with such a frame
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS = 4
_PLACEMENT_SECONDS = 30
# open files: with fewer Ray's processes die one after another; enough for a machine of many cores
_FEWEST_FILES, _ENOUGH_FILES = 512, 65_536
_LEAST_SPACE = 32 * 2**20  # in Ray's folder, for its logs


class RayExecutor:
    """Ray actors behind the `Executor` protocol.

    `address="local"` starts a cluster that ends with this process; "auto" or "host:port" joins one,
    where `run_dir` must be on a disk that all nodes share.
    """

    def __init__(self, address: str = "local") -> None:
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
        self._slots: list[PlacementGroup] = []

    def gpus(self) -> int:
        return int(ray.cluster_resources().get("GPU", 0))

    def spawn(
        self,
        factory: Callable[[], W],
        resources: Resources,
        after: Worker[object] | None = None,
    ) -> Worker[W]:
        environment = {
            "OMP_NUM_THREADS": str(resources.threads),
            "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", SPIN_COUNT),
            "PYTHONPATH": os.pathsep.join(_path()),
            **dict(resources.environment),
        }
        options: dict[str, object] = {
            # Ray would plan one CPU each and wait for ever on a small machine
            "num_cpus": 0,
            "num_gpus": resources.gpus,
            # a restarted actor would come back with its first weights; we respawn ourselves
            "max_restarts": 0,
            "runtime_env": {"env_vars": environment},
        }
        if resources.gpu_slot is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                self._slot(resources.gpu_slot), placement_group_bundle_index=0
            )
        actor = ray.remote(_Host).options(**options).remote()
        # built by a call, not by the constructor, so that its errors arrive as what they are
        # in a list: Ray would fetch a bare reference, and an error of that worker with it
        first = [after.built.reference] if isinstance(after, _RayWorker) else []
        return _RayWorker(actor, built=_RayFuture(actor.build.remote(factory, first)))

    def first_ready(
        self, waiting: Sequence[Waiting], timeout: float | None = None
    ) -> Waiting | None:
        # all that is ever waited for comes from workers of this executor
        references = [cast(_RayFuture[object], item).reference for item in waiting]
        ready, _ = ray.wait(references, num_returns=1, timeout=timeout)
        for item, reference in zip(waiting, references, strict=True):
            if ready and reference is ready[0]:
                return item
        return None

    def close(self) -> None:
        ray.shutdown()

    def _slot(self, number: int) -> PlacementGroup:
        while len(self._slots) <= number:
            group = placement_group([{"GPU": 1}])
            if not group.wait(_PLACEMENT_SECONDS):
                free = ray.available_resources().get("GPU", 0)
                raise InputError(
                    "cluster",
                    f"no GPU became free within {_PLACEMENT_SECONDS} s "
                    f"({free:g} of {self.gpus()} are free)",
                    "end what holds them, or set cluster.gpus to what is free",
                )
            self._slots.append(group)
        return self._slots[number]


def _path() -> list[str]:
    """Where workers look for modules: as this process, and in the working directory at last."""
    here = os.getcwd()
    found = [path for path in sys.path if path]
    return found if here in found else [*found, here]


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

    @property
    def _py_driver_sys_path(self) -> list[str]:
        return []

    @_py_driver_sys_path.setter
    def _py_driver_sys_path(self, paths: list[str]) -> None:
        pass


class _Host:
    """The actor: holds one worker object and passes calls on."""

    def __init__(self) -> None:
        self._target: object = None

    def build(self, factory: Callable[[], object], first: list[ray.ObjectRef[None]]) -> None:
        if first:
            ray.wait(first)
        self._target = factory()

    def call(self, method: str, arguments: Sequence[object], named: dict[str, object]) -> object:
        return getattr(self._target, method)(*arguments, **named)

    def stream(
        self, method: str, arguments: Sequence[object], named: dict[str, object]
    ) -> Iterator[object]:
        yield from getattr(self._target, method)(*arguments, **named)


class _RayWorker(Generic[W]):
    def __init__(self, actor: ActorProxy[_Host], built: _RayFuture[None]) -> None:
        self._actor = actor
        self.built = built

    def call(
        self, method: Callable[Concatenate[W, P], R], *arguments: P.args, **named: P.kwargs
    ) -> _RayFuture[R]:
        reference = self._actor.call.remote(method.__name__, arguments, named)
        return _RayFuture(reference, after=self.built)

    def stream(
        self,
        method: Callable[Concatenate[W, P], Iterator[R]],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> _RayStream[R]:
        start = self._actor.stream.options(num_returns="streaming")
        return _RayStream(start.remote(method.__name__, arguments, named), after=self.built)

    def kill(self) -> None:
        ray.kill(cast("ActorHandle[_Host]", self._actor))


class _RayFuture(Generic[R]):
    def __init__(self, reference: ray.ObjectRef[R], after: _RayFuture[None] | None = None) -> None:
        self.reference = reference
        self._after = after

    def result(self) -> R:
        if self._after is not None:
            self._after.result()  # a worker that could not be built says why
        with _plain_errors():
            return ray.get(self.reference)


class _RayStream(Generic[R]):
    def __init__(self, references: ray.ObjectRefGenerator, after: _RayFuture[None]) -> None:
        self.reference = references
        self._after = after

    def take(self) -> R | None:
        self._after.result()
        with _plain_errors():
            try:
                return cast(R, ray.get(next(self.reference)))
            except StopIteration:
                return None


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
    """Raises InputError where Ray cannot write its logs: it would wait for itself, and not say."""
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


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Ray's wrappers become what the worker raised, or `WorkerDiedError`."""
    try:
        yield
    except RayTaskError as error:
        cause = error.cause
        # the wrapper carries the worker's traceback; keep it as the cause
        raise (cause if isinstance(cause, Exception) else error) from error
    except (RayActorError, WorkerCrashedError, ObjectLostError) as error:
        # a lost object: the machine went away with a result that was done
        raise WorkerDiedError(f"a worker process died: {_first_line(error)}") from error
    except GetTimeoutError as error:
        raise WorkerDiedError(f"a worker does not answer: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
