"""Where workers run. `Executor` is all that worker groups know of it.

`raft.workers.inline_executor` runs workers in this process, `raft.workers.ray_executor` in Ray
actors. A worker is a plain class that does not know which. Its methods are called by name over
there, and typed here: `worker.call(RolloutWorker.log_probs, ids)` is a `Future[list[float]]`.
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
    """What one worker needs: CPU threads for its kernels, and GPUs.

    `slot` is the number of the `Slot` that its GPUs are in; colocated workers share one. `imports`
    are modules ("module", or "module:function" to be called) whose import takes it long.
    """

    threads: int = 1
    gpus: float = 0
    slot: int | None = None
    environment: tuple[tuple[str, str], ...] = ()
    imports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Slot:
    """GPUs of one node that a worker has, or several have in turn.

    Those of trainers belong on one node, since they sum gradients; engines are spread.
    """

    gpus: int
    trains: bool = False


class Future(Protocol[R_co]):
    """The result of a call that is under way."""

    def result(self) -> R_co:
        """Wait for it. Raises what the call raised, or WorkerDiedError."""
        ...


class Stream(Protocol[R_co]):
    """A generator that runs in a worker."""

    def take(self) -> R_co | None:
        """The next item, or None at the end. Raises as `Future.result`."""
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
        """How many GPUs there are for workers now."""
        ...

    def check_nodes(self, folder: Path | None) -> None:
        """Raises InputError for a node that does not import us, or does not see `folder`."""
        ...

    def reserve(self, slots: Sequence[Slot]) -> None:
        """Take the GPUs of all workers, before any that needs one is started.

        Raises:
            InputError: they do not fit the nodes, or somebody else takes them.
        """
        ...

    def spawn(
        self,
        factory: Callable[[], W],
        resources: Resources,
        after: Worker[object] | None = None,
    ) -> Worker[W]:
        """Start a worker: what `factory` returns over there, so it must be picklable.

        It is built when `after` has been, or has failed to be: on few cores, workers that all
        import their libraries at once keep the one waiting that has work first.
        """
        ...

    def first_ready(
        self, waiting: Sequence[Waiting], timeout: float | None = None
    ) -> Waiting | None:
        """One of `waiting` whose next result is there; None on time-out."""
        ...

    def close(self) -> None: ...
