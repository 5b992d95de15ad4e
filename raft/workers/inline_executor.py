"""Workers in this process, one thing at a time: for debugging and small jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Concatenate, Generic

from raft.workers.executors import P, R, Resources, W, Waiting, Worker


class InlineExecutor:
    """`Executor` without processes. A call has ended when it returns."""

    def gpus(self) -> int:
        return 0

    def spawn(
        self,
        factory: Callable[[], W],
        resources: Resources,
        after: Worker[object] | None = None,
    ) -> Worker[W]:
        del resources, after
        return _InlineWorker(factory())

    def first_ready(
        self, waiting: Sequence[Waiting], timeout: float | None = None
    ) -> Waiting | None:
        # the next item of a stream is made when it is taken: without waiting there is none
        ready = (one for one in waiting if timeout != 0 or isinstance(one, _Done))
        return next(ready, None)

    def close(self) -> None: ...


class _InlineWorker(Generic[W]):
    def __init__(self, target: W) -> None:
        self._target: W | None = target

    def call(
        self, method: Callable[Concatenate[W, P], R], *arguments: P.args, **named: P.kwargs
    ) -> _Done[R]:
        return _Done(getattr(self._target, method.__name__)(*arguments, **named))

    def stream(
        self,
        method: Callable[Concatenate[W, P], Iterator[R]],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> _InlineStream[R]:
        return _InlineStream(getattr(self._target, method.__name__)(*arguments, **named))

    def kill(self) -> None:
        self._target = None


@dataclass(frozen=True, eq=False)  # equal to itself alone, so that it can be a key
class _Done(Generic[R]):
    value: R

    def result(self) -> R:
        return self.value


@dataclass(frozen=True, eq=False)
class _InlineStream(Generic[R]):
    items: Iterator[R]

    def take(self) -> R | None:
        return next(self.items, None)
