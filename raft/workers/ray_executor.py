"""Workers as Ray actors, results as object references. Only `ray_*` modules know Ray."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, Generic, cast

import ray
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import (
    PlacementGroupSchedulingStrategy,
)

from raft.workers.executors import P, R, Resources, Slot, W, Waiting, Worker
from raft.workers.fork_server import ForkServer, shared_server
from raft.workers.ray_cluster import RayCluster, Reservation, listed, live_nodes
from rollout.engines.environment import spin_count
from rollout.text.printable import one_line
from rollout.types import InputError, WorkerDiedError

if TYPE_CHECKING:
    from ray.actor import ActorHandle, ActorProxy

log = logging.getLogger("raft")

_CAUSE = re.compile("exit type|exit detail|OOM|memory|node .*(died|dead)|killed|root cause", re.I)

_START_SECONDS = 300
_LOOK_EVERY = 1.0


@dataclass(frozen=True)
class _Start:
    """An actor that Ray has been asked to start; `reference` is ready once the actor runs."""

    reference: ray.ObjectRef[None]
    slot: int | None
    since: float


@dataclass(frozen=True)
class _Watch:
    """Checks of a worker that does not answer; each raises InputError where waiting is in vain."""

    waiting: Callable[[], None]  # while its result is awaited: raises where it cannot start
    died: Callable[[], None]  # after its death: raises where its node is lost, as its slot is then


class RayExecutor:
    """Ray actors behind the `Executor` protocol.

    `address="local"` starts a cluster that ends with this process; "auto" or "host:port" joins one,
    whose nodes must see `run_dir` and import this package. `forward` are names of environment
    variables that workers there need. Workers of a local cluster without GPUs are forked from one
    process, which begins to import `imports` while Ray starts.
    """

    def __init__(
        self, address: str = "local", forward: Sequence[str] = (), imports: Sequence[str] = ()
    ) -> None:
        self._open = contextlib.ExitStack()
        self._forks: ForkServer | None = None
        if address == "local" and imports:
            self._forks = self._open.enter_context(shared_server(imports))
        try:
            self._cluster = RayCluster(address, forward)
        except BaseException:
            self._open.close()
            raise
        self._reserved: Reservation | None = None
        self._starting: list[_Start] = []

    def gpus(self) -> int:
        return self._cluster.gpus()

    def check_nodes(self, folder: Path | None) -> None:
        self._cluster.check_nodes(folder)

    def reserve(self, slots: Sequence[Slot]) -> None:
        if slots:
            self._reserved = self._cluster.reserve(slots)

    def spawn(
        self,
        factory: Callable[[], W],
        resources: Resources,
        after: Worker[object] | None = None,
    ) -> Worker[W]:
        slot, threads, strategy = resources.slot, resources.threads, None
        if slot is not None:
            assert self._reserved is not None, "workers with GPUs start after `reserve`"
            threads = self._reserved.threads[slot]  # of their node, which need not be ours
            strategy = PlacementGroupSchedulingStrategy(
                self._reserved.group, placement_group_bundle_index=slot
            )
        environment = {
            **self._cluster.environment,
            "OMP_NUM_THREADS": str(threads),
            "GOMP_SPINCOUNT": spin_count(),
            **dict(resources.environment),
        }
        started_by = {}
        if self._forks is not None and resources.imports and slot is None:
            started_by = {"py_executable": self._forks.command(resources.imports)}
        options: dict[str, object] = {
            # Ray would plan one CPU each and wait for ever on a small machine
            "num_cpus": 0,
            "num_gpus": resources.gpus,
            # a restarted actor would come back with its first weights; we respawn ourselves
            "max_restarts": 0,
            "runtime_env": {"env_vars": environment, **started_by},
            "scheduling_strategy": strategy,
        }
        actor = ray.remote(_Host).options(**options).remote()
        self._starting.append(_Start(actor.started.remote(), slot, time.monotonic()))
        # built by a call, not by the constructor, so that its errors arrive as what they are
        # in a list: Ray would fetch a bare reference, and an error of that worker with it
        first = [after.built.reference] if isinstance(after, _RayWorker) else []
        watch = _Watch(self._check_starts, partial(self._check_slot, slot))
        built = _RayFuture(actor.build.remote(factory, first), watch)
        return _RayWorker(actor, built, watch)

    def first_ready(
        self, waiting: Sequence[Waiting], timeout: float | None = None
    ) -> Waiting | None:
        self._check_starts()
        # all that is ever waited for comes from workers of this executor
        references = [cast(_RayFuture[object], item).reference for item in waiting]
        ready, _ = ray.wait(references, num_returns=1, timeout=timeout)
        for item, reference in zip(waiting, references, strict=True):
            if ready and reference is ready[0]:
                return item
        return None

    def close(self) -> None:
        ray.shutdown()
        self._open.close()

    def _check_slot(self, slot: int | None) -> None:
        if slot is not None and self._reserved is not None:
            self._reserved.check(slot)

    def _check_starts(self) -> None:
        """Check the workers that are starting: Ray waits for ever for one that it cannot start.

        Raises InputError for a worker whose node is lost, or that does not run after 300 s.
        """
        if not self._starting:
            return
        references = [start.reference for start in self._starting]
        _, waiting = ray.wait(references, num_returns=len(references), timeout=0)
        self._starting = [start for start in self._starting if start.reference in waiting]
        for start in self._starting:
            self._check_slot(start.slot)
            if time.monotonic() - start.since > _START_SECONDS:
                raise InputError(
                    "cluster",
                    f"has started no worker within {_START_SECONDS:g} s (free GPUs: "
                    f"{listed(live_nodes())})",
                    "see its nodes with `ray status`, then run the same command again",
                )


class _Host:
    """The actor: holds one worker object and passes calls on."""

    def __init__(self) -> None:
        self._target: object = None

    def started(self) -> None:
        """Do nothing: a call of this is done once Ray has placed the actor."""

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
    def __init__(self, actor: ActorProxy[_Host], built: _RayFuture[None], watch: _Watch) -> None:
        self._actor = actor
        self.built = built
        self._watch = watch

    def call(
        self, method: Callable[Concatenate[W, P], R], *arguments: P.args, **named: P.kwargs
    ) -> _RayFuture[R]:
        reference = self._actor.call.remote(method.__name__, arguments, named)
        return _RayFuture(reference, self._watch, after=self.built)

    def stream(
        self,
        method: Callable[Concatenate[W, P], Iterator[R]],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> _RayStream[R]:
        start = self._actor.stream.options(num_returns="streaming")
        return _RayStream(
            start.remote(method.__name__, arguments, named), self._watch, after=self.built
        )

    def kill(self) -> None:
        ray.kill(cast("ActorHandle[_Host]", self._actor))


class _RayFuture(Generic[R]):
    def __init__(
        self,
        reference: ray.ObjectRef[R],
        watch: _Watch,
        after: _RayFuture[None] | None = None,
    ) -> None:
        self.reference = reference
        self._watch = watch
        self._after = after

    def result(self) -> R:
        if self._after is not None:
            self._after.result()  # a worker that could not be built says why
        while not ray.wait([self.reference], timeout=_LOOK_EVERY)[0]:
            self._watch.waiting()
        with _plain_errors(self._watch):
            return ray.get(self.reference)


class _RayStream(Generic[R]):
    def __init__(
        self, references: ray.ObjectRefGenerator, watch: _Watch, after: _RayFuture[None]
    ) -> None:
        self.reference = references
        self._watch = watch
        self._after = after

    def take(self) -> R | None:
        self._after.result()
        with _plain_errors(self._watch):
            try:
                return cast(R, ray.get(next(self.reference)))
            except StopIteration:
                return None


@contextlib.contextmanager
def _plain_errors(watch: _Watch) -> Iterator[None]:
    """Raise what the worker raised, or `WorkerDiedError`, in place of Ray's own exceptions.

    Where the worker died, `watch.died` is called first and may raise an InputError.
    """
    try:
        yield
    except RayTaskError as error:
        cause = error.cause
        # the wrapper carries the worker's traceback; keep it as the cause
        raise (cause if isinstance(cause, Exception) else error) from error
    except (
        RayActorError, WorkerCrashedError, ObjectLostError, NodeDiedError, OutOfMemoryError,
    ) as error:  # fmt: skip
        # a lost object: the machine went away with a result that was done
        watch.died()
        raise WorkerDiedError(f"a worker process died: {_causes(error)}") from error
    except GetTimeoutError as error:
        raise WorkerDiedError(f"a worker does not answer: {_causes(error)}") from error


def _causes(error: Exception) -> str:
    """Return Ray's message in one line: its first line and those that name a cause, then the
    process and its node, then the folder of the logs."""
    first, *others = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    told = {key: value.strip() for key, _, value in (line.partition(":") for line in others)}
    why = [line for line in others if _CAUSE.search(line)]
    who = f"process {told['pid']} on {told['ip']}" if {"pid", "ip"} <= told.keys() else ""
    home = ray.worker.global_worker.node
    logs = f"logs in {home.get_logs_dir_path()} there" if home is not None else ""
    return "; ".join(part for part in (one_line(" ".join([first, *why])), who, logs) if part)
