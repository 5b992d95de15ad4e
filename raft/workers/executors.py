"""Where workers run. `Executor` is all the loop knows of it; `InlineExecutor` is this process.

`raft.workers.ray_executor` has the Ray twin. Both take a factory, so that the same worker classes
serve both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Resources:
    """What one worker needs: CPU threads for its kernels, and a share of GPUs.

    `gpu_slot` names the GPU that colocated workers share (None: whole GPUs of one's own).
    """

    threads: int = 1
    gpus: float = 0
    gpu_slot: int | None = None
    environment: tuple[tuple[str, str], ...] = ()


class Future(Protocol):
    """A call's result to come."""

    def result(self) -> Any:
        """Wait for it. Raises what the call raised, or WorkerDiedError."""
        ...


class Stream(Protocol):
    """A generator that runs in a worker."""

    def take(self) -> Any | None:
        """The next item, or None at the end. Raises as `Future.result`."""
        ...


class Worker(Protocol):
    """A live object in some process."""

    def call(self, method: str, *arguments: Any) -> Future: ...

    def stream(self, method: str, *arguments: Any) -> Stream: ...

    def kill(self) -> None: ...


class Executor(Protocol):
    """Starts workers and waits for the first of several results."""

    def spawn(
        self, factory: Callable[..., Any], arguments: dict[str, Any], resources: Resources
    ) -> Worker: ...

    def first_ready(self, waiting: Sequence[Any], timeout: float | None = None) -> Any | None:
        """One of `waiting` (futures or streams) whose next result is there; None on time-out."""
        ...

    def close(self) -> None: ...


class InlineExecutor:
    """Everything in this process, one thing at a time: for debugging and small jobs."""

    def spawn(
        self, factory: Callable[..., Any], arguments: dict[str, Any], resources: Resources
    ) -> Worker:
        del resources
        return _InlineWorker(factory, arguments)

    def first_ready(self, waiting: Sequence[Any], timeout: float | None = None) -> Any | None:
        del timeout
        return waiting[0] if waiting else None

    def close(self) -> None: ...


class _InlineWorker:
    def __init__(self, factory: Callable[..., Any], arguments: dict[str, Any]) -> None:
        self._target: Any = factory(**arguments)

    def call(self, method: str, *arguments: Any) -> Future:
        return _Done(getattr(self._target, method)(*arguments))

    def stream(self, method: str, *arguments: Any) -> Stream:
        return _InlineStream(getattr(self._target, method)(*arguments))

    def kill(self) -> None:
        self._target = None


@dataclass(frozen=True, eq=False)  # equal to itself alone, so that it can be a key
class _Done:
    value: Any

    def result(self) -> Any:
        return self.value


@dataclass(frozen=True, eq=False)
class _InlineStream:
    items: Iterator[Any]

    def take(self) -> Any | None:
        return next(self.items, None)
