"""The worker that measures policies: where it sits, who makes room for it, and its replacement."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

from raft.executors import Executor, Resources
from raft.monitor.log_probs import Row
from raft.monitor.worker import LogProbWorker, Measured
from rollout.types import WorkerDiedError

log = logging.getLogger("raft")

__all__ = ["LogProbPool"]


class Sleeper(Protocol):
    """Those who leave their GPU for as long as the policies are measured."""

    def sleep(self) -> None: ...

    def wake(self) -> None: ...


class LogProbPool:
    """One `LogProbWorker` of these arguments; when it dies another takes its place, `max_respawns`
    times per evaluation. `neighbours` sleep while it works."""

    def __init__(
        self,
        executor: Executor,
        resources: Resources,
        worker: dict[str, Any],
        neighbours: Sequence[Sleeper] = (),
        max_respawns: int = 3,
    ) -> None:
        self._executor = executor
        self._resources = resources
        self._arguments = worker
        self._neighbours = neighbours
        self._max_respawns = max_respawns
        self._worker = self._spawn()

    def measure(self, policy: str, samples: Sequence[Row], texts: Sequence[Row]) -> Measured:
        """`LogProbWorker.measure`."""
        for neighbour in self._neighbours:
            neighbour.sleep()
        measured = self._retried(policy, samples, texts)
        for neighbour in self._neighbours:
            neighbour.wake()
        return measured

    def _retried(self, *arguments: Any) -> Measured:
        for attempt in range(self._max_respawns + 1):
            try:
                return self._worker.call("measure", *arguments).result()
            except WorkerDiedError as error:
                if attempt == self._max_respawns:
                    raise WorkerDiedError(
                        f"the monitor's worker died {attempt + 1} times (cluster.max_respawns is "
                        f"{self._max_respawns}); the last: {error}"
                    ) from error
                log.warning("the monitor's worker died; starting another")
                self._worker = self._spawn()
        raise AssertionError("unreachable")

    def _spawn(self) -> Any:
        return self._executor.spawn(LogProbWorker, self._arguments, self._resources)
