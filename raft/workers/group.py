"""A worker group: several workers of one kind that are used as one, and replaced when they die."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Concatenate, Generic

from raft.workers.executors import Executor, Future, P, R, Resources, W, Worker
from raft.workers.silence import SilenceWatch
from rollout.types import WorkerDiedError

log = logging.getLogger("raft")


def side_by_side(first: Callable[[], object], second: Callable[[], object]) -> None:
    """Run two functions at the same time, the first in a thread. Raises what either raises.

    Where the second fails, the first is not waited for.
    """
    failed: list[BaseException] = []

    def tried() -> None:
        try:
            first()
        except BaseException as error:  # raised below, where it is waited for
            failed.append(error)

    # a daemon, so that an unfinished update does not delay the end of a run that is interrupted
    thread = threading.Thread(target=tried, daemon=True)
    thread.start()
    second()
    thread.join()
    if failed:
        raise failed[0]


class WorkerGroup(ABC, Generic[W]):
    """One worker per entry of `resources`; in each stage, `max_respawns` dead ones are replaced.

    One death more raises WorkerDiedError.
    """

    kind: str  # names the workers in messages

    def __init__(
        self,
        executor: Executor,
        resources: Sequence[Resources],
        max_respawns: int = 3,
        after: Worker[object] | None = None,
        stall_timeout: float | None = None,
    ) -> None:
        self._executor = executor
        self._after = after
        self._watch = SilenceWatch(executor, self.kind, self._kill, stall_timeout)
        self._resources = resources
        self._max_respawns = max_respawns
        self._deaths = 0
        self._workers = [self._spawn(number) for number in range(len(resources))]

    @property
    def first(self) -> Worker[W]:
        """The first worker, which workers of other groups may be started after."""
        return self._workers[0]

    def begin_stage(self) -> None:
        """Count deaths anew: a long run may lose a worker now and then."""
        self._deaths = 0

    @abstractmethod
    def _factory(self) -> Callable[[], W]:
        """Return a picklable function that builds a worker for the group's present state."""

    def _spawn(self, number: int) -> Worker[W]:
        return self._executor.spawn(self._factory(), self._resources[number], self._after)

    def _on_all(
        self, method: Callable[Concatenate[W, P], R], *arguments: P.args, **named: P.kwargs
    ) -> list[R]:
        """Call every worker at once and return their results, in the order of the workers.

        Where a worker dies, its replacement is called.
        """
        futures = self._call_all(method, *arguments, **named)
        return [
            self._result(number, future, lambda w: w.call(method, *arguments, **named))
            for number, future in enumerate(futures)
        ]

    def _call_all(
        self, method: Callable[Concatenate[W, P], R], *arguments: P.args, **named: P.kwargs
    ) -> list[Future[R]]:
        futures = [worker.call(method, *arguments, **named) for worker in self._workers]
        for number in range(len(futures)):
            self._watch.begin(number, method.__name__)
        return futures

    def _result(self, number: int, future: Future[R], again: Callable[[Worker[W]], Future[R]]) -> R:
        self._watch.first({future: number})
        try:
            return future.result()
        except WorkerDiedError as error:
            self._replace(number, error)
            return again(self._workers[number]).result()

    def _kill(self, number: int) -> None:
        self._workers[number].kill()

    def _replace(self, number: int, error: WorkerDiedError, lost: str = "") -> None:
        """Start another worker in place of a dead one; `lost` says what it leaves undone.

        Raises WorkerDiedError where that has happened too often.
        """
        self._deaths += 1
        if self._deaths > self._max_respawns:
            raise WorkerDiedError(
                f"{self.kind} workers died {self._deaths} times (cluster.max_respawns is "
                f"{self._max_respawns}); the last: {error}"
            ) from error
        left = f" ({lost})" if lost else ""
        log.warning("%s worker %d died%s; starting another", self.kind, number, left)
        self._workers[number] = self._spawn(number)
