"""Rewards and judges on several GPUs of this machine, for what has no run: files and the server.

A call goes whole to a worker that is free, so its answer is the one that a single process gives;
callers have a thread for each call that is to be under way.
"""

from __future__ import annotations

import contextlib
import logging
import queue
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from raft.resources import token_variables
from raft.workers.executors import Executor, Resources, Slot
from raft.workers.group import WorkerGroup
from raft.workers.reward import captured, log_printed
from rewards.build import here
from rollout.engines.environment import quiet_libraries
from rollout.errors import InputError, WorkerDiedError

if TYPE_CHECKING:
    from rewards.build import Place
    from rewards.spec import RewardSpec

__all__ = ["ScoringWorkers", "on_gpus"]

log = logging.getLogger("raft")

_ADDRESS = "local"
# what rewards, judges and frozen transformers are asked for
_METHODS = ("score", "score_groups", "compare", "verdicts", "about_states", "states")
_MOST_DEATHS = 3  # of one call

_Built = TypeVar("_Built")


@contextlib.contextmanager
def on_gpus(gpus: int | None, specs: Sequence[RewardSpec]) -> Iterator[Place]:
    """Where what `specs` say is to run: a worker on each of `gpus` GPUs, or here for None.

    The workers of one reward end when the next is built, and all on leaving.

    Raises:
        InputError: there are not so many free GPUs, or there is no use for them.
    """
    if gpus is None:
        yield here
        return
    parts = [part for spec in specs for part in spec.parts()]
    where = f"gpus={gpus}"
    if not any(spec.needs_gpu for spec in specs):
        raise InputError(where, "nothing that scores runs on a GPU here", "leave it out")
    if devices := {one for part in parts if (one := getattr(part, "device", None))}:
        named = f"device={devices.pop()!r}"
        raise InputError(where, f"every worker has a GPU of its own, not {named}", "leave one out")
    from raft.workers.ray_executor import RayExecutor

    executor = RayExecutor(_ADDRESS, token_variables(specs))
    groups: list[ScoringWorkers] = []

    def place(build: Callable[[], _Built]) -> _Built:
        for before in groups:
            before.close()
        groups[:] = [ScoringWorkers(executor, gpus, build)]
        groups[0].wait()
        return cast(_Built, groups[0])

    try:
        if (free := executor.gpus()) < gpus:
            fix = "ask for fewer, or leave it out" if free else "leave it out"
            raise InputError(where, f"this machine has {free} free GPUs", fix)
        executor.reserve([Slot(1)] * gpus)
        yield place
    finally:
        for group in groups:
            group.close()
        executor.close()


class ScoringWorker:
    """A reward or a judge."""

    def __init__(self, build: Callable[[], object]) -> None:
        quiet_libraries()
        self._scorer = build()

    def offers(self) -> tuple[str | None, list[str]]:
        """Its name, and what it can be asked for."""
        name = getattr(self._scorer, "name", None)
        return name, [method for method in _METHODS if hasattr(self._scorer, method)]

    def ask(
        self, method: str, arguments: tuple[object, ...], named: dict[str, object]
    ) -> tuple[object, str]:
        """What the method returns, and what it printed."""
        with captured() as printed:
            answer = getattr(self._scorer, method)(*arguments, **named)
        return answer, printed.getvalue()


class ScoringWorkers(WorkerGroup[ScoringWorker]):
    """Is used as what `build` makes, from as many threads as there are workers, one on each GPU.

    It has the methods that a worker's own has. A worker that dies is replaced, and its call given
    out again; WorkerDiedError where that happens too often to one call.
    """

    kind = "scoring"
    name: str | None

    def __init__(self, executor: Executor, gpus: int, build: Callable[[], object]) -> None:
        self._build = build
        self._closed = False
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        resources = [Resources(gpus=1, slot=number) for number in range(gpus)]
        super().__init__(executor, resources)
        self.calls_at_once = gpus
        for number in range(gpus):
            self._free.put(number)

    def wait(self) -> None:
        """Until the first worker is there. Raises what building it raised."""
        self.name, methods = self._workers[0].call(ScoringWorker.offers).result()
        for method in methods:
            setattr(self, method, partial(self._ask, method))

    def close(self) -> None:
        """End the workers; calls that are under way raise WorkerDiedError."""
        self._closed = True
        for worker in self._workers:
            worker.kill()

    def _ask(self, method: str, *arguments: object, **named: object) -> Any:
        number = self._free.get()
        try:
            for left in reversed(range(_MOST_DEATHS)):
                call = self._workers[number].call(ScoringWorker.ask, method, arguments, named)
                try:
                    answer, printed = call.result()
                except WorkerDiedError as error:
                    if self._closed:
                        raise
                    log.warning("%s worker %d died; starting another", self.kind, number)
                    self._workers[number] = self._spawn(number)
                    if not left:
                        what = f"{_MOST_DEATHS} workers died of the same rows"
                        raise WorkerDiedError(f"{what}; the last: {error}") from error
                    continue
                log_printed(self.kind, number, printed)
                return answer
        finally:
            self._free.put(number)

    def _factory(self) -> Callable[[], ScoringWorker]:
        return partial(ScoringWorker, self._build)
