"""Workers in this process, one thing at a time: for debugging and small jobs."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, Generic

from raft.workers.executors import P, R, Resources, Slot, W, Waiting, Worker

_VISIBLE = "CUDA_VISIBLE_DEVICES"


class InlineExecutor:
    """An `Executor` that runs every worker in this process; `call` returns when the call is done.

    Args:
        gpus: how many GPUs may be used (0 hides them all); of several, only the first is used.
    """

    def __init__(self, gpus: int | None = None) -> None:
        self._frozen = gc.get_freeze_count() > 0
        self._before = os.environ.get(_VISIBLE)
        self._wanted = gpus
        if gpus == 0:
            os.environ[_VISIBLE] = ""
        elif machine_gpus():
            os.environ[_VISIBLE] = ("0" if self._before is None else self._before).split(",")[0]

    def gpus(self) -> int:
        if self._wanted == 0 or not machine_gpus():
            return 0
        import torch

        return min(1, torch.cuda.device_count())

    def check_nodes(self, folder: Path | None) -> None: ...

    def reserve(self, slots: Sequence[Slot]) -> None: ...

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

    def close(self) -> None:
        if not self._frozen:  # workers exempt what they load, which may be garbage from now on
            gc.unfreeze()
        if self._before is None:
            os.environ.pop(_VISIBLE, None)
        else:
            os.environ[_VISIBLE] = self._before


def machine_gpus() -> int:
    """Return how many GPUs this machine has by its device files; torch may be unable to use them.

    AMD's /dev/kfd counts as one.
    """
    return len(list(Path("/dev").glob("nvidia[0-9]*"))) + len(list(Path("/dev").glob("kfd")))


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
