"""M reward workers, fed with groups while others are still being drawn."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from raft.workers.executors import Executor, Future, Resources, Worker
from raft.workers.workers import GroupScores, RewardWorker
from rollout.types import Group, WorkerDiedError

log = logging.getLogger("raft")

Scored = tuple[Group, GroupScores]

# groups waiting per worker, in batches: enough to keep it busy, few enough to fit any memory
_BATCHES_AHEAD = 4


class RewardPool:
    """M reward workers. A worker that dies is replaced, and its batch is given out again."""

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
        self._reports: dict[str, Any] = {}
        self.busy_seconds = 0.0

    @property
    def has_room(self) -> bool:
        """Whether `submit` may be called: what waits here is held in memory."""
        return len(self._queue) < _BATCHES_AHEAD * self._batch_groups * len(self._workers)

    def submit(self, group: Group, names: Sequence[str]) -> None:
        self._queue.append((group, tuple(names)))
        if len(self._queue) >= self._batch_groups:
            self.start()

    def ready(self) -> Iterator[Scored]:
        """The groups scored by now, without waiting."""
        while (scored := self._next_batch(timeout=0)) is not None:
            yield from scored

    def wait(self) -> Iterator[Scored]:
        """The next batch of groups, waiting for it; none where nothing is left."""
        self.start()
        yield from self._next_batch(timeout=None) or ()

    @property
    def idle(self) -> bool:
        """Whether everything submitted has been handed back."""
        return not self._running and not self._queue

    def begin_stage(self) -> None:
        """Deaths are counted per stage: a long run may lose a worker now and then."""
        self._respawns = 0
        self._reports = {}

    @property
    def reports(self) -> dict[str, Any]:
        """What the judges among the rewards have to report of this stage, by reward name."""
        return self._reports

    def sleep(self) -> None:
        self._on_all("sleep")

    def wake(self) -> None:
        self._on_all("wake")

    def _on_all(self, method: str) -> None:
        calls = [(number, worker.call(method)) for number, worker in enumerate(self._workers)]
        for number, future in calls:
            try:
                future.result()
            except WorkerDiedError as error:
                self._replace(number, error)
                self._workers[number].call(method).result()

    def start(self) -> None:
        """Give every idle worker a batch of what waits, be it a small one."""
        for number, worker in enumerate(self._workers):
            if number in self._running or not self._queue:
                continue
            names = self._queue[0][1]
            groups: list[Group] = []
            while self._queue and len(groups) < self._batch_groups and self._queue[0][1] == names:
                groups.append(self._queue.popleft()[0])
            self._running[number] = (worker.call("score", groups, names), groups, names)

    def _next_batch(self, timeout: float | None) -> list[Scored] | None:
        """One finished batch; its worker gets the next at once. None: none is there."""
        while self._running:
            futures = {running[0]: number for number, running in self._running.items()}
            future = self._executor.first_ready(list(futures), timeout)
            if future is None:
                return None
            number = futures[future]
            _, groups, names = self._running.pop(number)
            try:
                scores, seconds, reports = future.result()
            except WorkerDiedError as error:
                self._replace(number, error)
                self._queue.extendleft((group, names) for group in reversed(groups))
                self.start()
                continue
            self.start()
            self.busy_seconds += seconds
            for name, report in reports.items():
                self._reports[name] = (
                    self._reports[name] + report if name in self._reports else report
                )
            return list(zip(groups, scores, strict=True))
        return None

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
