"""Rewards and judges on several GPUs of this machine, for scoring outside a run: files, a server.

A call goes whole to a worker that is free, so its result is the one that a single process gives;
callers use a thread for each call that is to be under way.
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
# the methods of rewards, judges and frozen transformers that can be called in a worker
_METHODS = ("score", "score_groups", "compare", "verdicts", "about_states", "states")
_MOST_DEATHS = 3  # of workers that one call is given to

_Built = TypeVar("_Built")


@contextlib.contextmanager
def on_gpus(gpus: int | None, specs: Sequence[RewardSpec]) -> Iterator[Place]:
    """Yield the place where the rewards of `specs` run: a worker on each of `gpus` GPUs, or this
    process where `gpus` is None.

    The workers of one reward end when the next reward is built, and the last ones with the context.

    Raises:
        InputError: fewer GPUs are free, no reward uses a GPU, or one names a device of its own.
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
    """A worker with one reward or judge, whose methods it calls by name."""

    def __init__(self, build: Callable[[], object]) -> None:
        quiet_libraries()
        self._scorer = build()

    def offers(self) -> tuple[str | None, list[str]]:
        """Return the name of the reward or judge (None without one), and its callable methods."""
        name = getattr(self._scorer, "name", None)
        return name, [method for method in _METHODS if hasattr(self._scorer, method)]

    def ask(
        self, method: str, arguments: tuple[object, ...], named: dict[str, object]
    ) -> tuple[object, str]:
        """Call a method of the reward or judge. Return its result, and what it printed."""
        with captured() as printed:
            answer = getattr(self._scorer, method)(*arguments, **named)
        return answer, printed.getvalue()


class ScoringWorkers(WorkerGroup[ScoringWorker]):
    """Copies of what `build` returns, one on each GPU, that are used as if they were one.

    Its methods are those of the reward or judge; as many threads as there are workers may call them
    at once. A worker that dies is replaced and its call given out again; a call whose workers die
    three times raises WorkerDiedError.
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
        """Wait for the first worker and take over its name and methods.

        Raises what building the worker raised.
        """
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
