"""The protocol `Executor`, by which worker groups start workers without knowing where they run.

`raft.workers.inline_executor` runs workers in this process, `raft.workers.ray_executor` in Ray
actors. A worker is a plain class that does not know which one runs it. Its methods are called by
name in its process and typed in the caller: `worker.call(RolloutWorker.read, rows)` is a
`Future[EngineState]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

W = TypeVar("W")
W_co = TypeVar("W_co", covariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
P = ParamSpec("P")
Waiting = TypeVar("Waiting", bound="Future[object] | Stream[object]")


@dataclass(frozen=True)
class Resources:
    """What one worker needs: CPU threads for its kernels, and GPUs (a fraction of one is shared).

    `slot` is the number of the `Slot` that its GPUs are in; colocated workers share one.
    `environment` are (name, value) pairs. `imports` are modules ("module", or "module:function" for
    a function to be called) that take the worker long to import.
    """

    threads: int = 1
    gpus: float = 0
    slot: int | None = None
    environment: tuple[tuple[str, str], ...] = ()
    imports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Slot:
    """GPUs of one node that belong to one worker, or that several workers use in turn.

    Slots of trainers (`trains`) belong on one node, since trainers sum gradients; engines are
    spread over the nodes.
    """

    gpus: int
    trains: bool = False


class Future(Protocol[R_co]):
    """The result of a call that is under way."""

    def result(self) -> R_co:
        """Wait for the result and return it. Raises what the call raised, or WorkerDiedError."""
        ...


class Stream(Protocol[R_co]):
    """A generator that runs in a worker."""

    def take(self) -> R_co | None:
        """Wait for the next item and return it, or None at the end. Raises as `Future.result`."""
        ...


class Worker(Protocol[W_co]):
    """A live object of class `W_co` in some process. `method` is one of that class's."""

    def call(
        self, method: Callable[Concatenate[W_co, P], R], *arguments: P.args, **named: P.kwargs
    ) -> Future[R]: ...

    def stream(
        self,
        method: Callable[Concatenate[W_co, P], Iterator[R]],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> Stream[R]: ...

    def kill(self) -> None: ...


class Executor(Protocol):
    """Starts workers and waits for the first of several results."""

    def gpus(self) -> int:
        """Return how many GPUs workers can have now."""
        ...

    def check_nodes(self, folder: Path | None) -> None:
        """Check that every node can import raft and sees `folder` (None: no folder is looked for).

        Raises InputError for a node that does not.
        """
        ...

    def reserve(self, slots: Sequence[Slot]) -> None:
        """Reserve the GPUs of all workers, before any worker that needs one is started.

        Raises:
            InputError: the slots do not fit the GPUs that are free on the nodes.
        """
        ...

    def spawn(
        self,
        factory: Callable[[], W],
        resources: Resources,
        after: Worker[object] | None = None,
    ) -> Worker[W]:
        """Start a worker, which is the object that `factory` (picklable) returns in its process.

        The worker is built once `after` has been built or has failed: on few cores, workers that
        all import their libraries at once delay the worker that is needed first.
        """
        ...

    def first_ready(
        self, waiting: Sequence[Waiting], timeout: float | None = None
    ) -> Waiting | None:
        """Return one of `waiting` whose next result is there; None after `timeout` seconds.

        With a `timeout` of None, wait without limit.
        """
        ...

    def close(self) -> None: ...
