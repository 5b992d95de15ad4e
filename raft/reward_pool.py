"""M reward workers, fed with groups while others are still being drawn."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from raft.executors import Executor, Future, Resources, Worker
from raft.workers import RewardWorker
from rollout.types import Group, WorkerDiedError

log = logging.getLogger("raft")

Scored = tuple[Group, dict[str, list[float | None]]]


class RewardPool:
    """M reward workers fed with groups while others are still being drawn."""

    def __init__(
        self,
        executor: Executor,
        resources: Sequence[Resources],
        rewards: dict[str, dict[str, Any]],
        max_respawns: int = 3,
        batch_groups: int = 32,
    ) -> None:
        self._executor = executor
        self._resources = resources
        self._rewards = rewards
        self._max_respawns = max_respawns
        self._batch_groups = batch_groups
        self._respawns = 0
        self._workers = [self._spawn(number) for number in range(len(resources))]
        self._queue: deque[tuple[Group, tuple[str, ...]]] = deque()
        self._running: dict[int, tuple[Future, list[Group], tuple[str, ...]]] = {}
        self.busy_seconds = 0.0

    def submit(self, group: Group, names: Sequence[str]) -> None:
        self._queue.append((group, tuple(names)))
        if len(self._queue) >= self._batch_groups:
            self._start_idle()

    def ready(self) -> Iterator[Scored]:
        """The groups scored by now, without waiting."""
        yield from self._collect(timeout=0)

    def drain(self) -> Iterator[Scored]:
        """All remaining groups, waiting for them."""
        self._start_idle()
        while self._running:
            yield from self._collect(timeout=None)
            self._start_idle()

    def sleep(self) -> None:
        for future in [worker.call("sleep") for worker in self._workers]:
            future.result()

    def wake(self) -> None:
        for future in [worker.call("wake") for worker in self._workers]:
            future.result()

    def _start_idle(self) -> None:
        for number, worker in enumerate(self._workers):
            if number in self._running or not self._queue:
                continue
            names = self._queue[0][1]
            groups: list[Group] = []
            while self._queue and len(groups) < self._batch_groups and self._queue[0][1] == names:
                groups.append(self._queue.popleft()[0])
            self._running[number] = (worker.call("score", groups, names), groups, names)

    def _collect(self, timeout: float | None) -> Iterator[Scored]:
        while self._running:
            futures = {running[0]: number for number, running in self._running.items()}
            future = self._executor.first_ready(list(futures), timeout)
            if future is None:
                return
            number = futures[future]
            _, groups, names = self._running.pop(number)
            try:
                scores, seconds = future.result()
            except WorkerDiedError as error:
                self._replace(number, error)
                self._queue.extendleft((group, names) for group in reversed(groups))
                self._start_idle()
                continue
            self.busy_seconds += seconds
            yield from zip(groups, scores, strict=True)
            if timeout is not None:
                self._start_idle()

    def _replace(self, number: int, error: WorkerDiedError) -> None:
        self._respawns += 1
        if self._respawns > self._max_respawns:
            raise WorkerDiedError(
                f"reward workers died {self._respawns} times (cluster.max_respawns is "
                f"{self._max_respawns}); the last: {error}"
            ) from error
        log.warning("reward worker %d died; starting another", number)
        self._workers[number] = self._spawn(number)

    def _spawn(self, number: int) -> Worker:
        return self._executor.spawn(
            RewardWorker, {"rewards": self._rewards}, self._resources[number]
        )
