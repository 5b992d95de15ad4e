"""Reward workers, each of which holds the rewards of a run, and a group of them that scores while
rollout workers draw."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from raft.workers.executors import Executor, Future, Resources, Worker
from raft.workers.group import WorkerGroup
from rollout.engines.environment import quiet_libraries
from rollout.text.printable import printable
from rollout.types import Group, WorkerDiedError

if TYPE_CHECKING:
    from rewards.judges.reward import Report
    from rewards.types import Reward

log = logging.getLogger("raft")

# groups waiting per worker, in batches: enough to keep it busy, few enough to fit any memory
_BATCHES_AHEAD = 4


@contextlib.contextmanager
def captured() -> Iterator[io.StringIO]:
    """Capture what is printed in the context, and yield the text as a stream.

    Where the context raises, the text is printed after all: only the error reaches the caller.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield printed
    except Exception:
        sys.stdout.write(printed.getvalue())
        raise


def log_printed(kind: str, number: int, printed: str) -> None:
    for line in printed[:_MOST_PRINTED].splitlines():
        log.info("%s worker %d prints: %s", kind, number, printable(line))


BuildReward = Callable[[], "Reward"]


@dataclass(frozen=True, slots=True)
class GroupScores:
    """The scores of one group: reward name -> K scores (None = missing).

    `comparisons` is [[i, j, P(response i is better than j)], …] where a tournament was held.
    """

    scores: dict[str, list[float | None]]
    comparisons: list[list[int | float]] | None = None


# the scores of each group, the seconds they took, the reports of the judges among the rewards,
# what the rewards printed
Scored = tuple[list[GroupScores], float, "dict[str, Report]", str]
_MOST_PRINTED = 4000  # characters of a batch


class RewardWorker:
    """The rewards of a run by name ("reward", "gold"), each built by a call of its own."""

    def __init__(self, rewards: Mapping[str, BuildReward]) -> None:
        quiet_libraries()
        self._rewards = {name: build() for name, build in rewards.items()}

    def score(self, groups: Sequence[Group], names: Sequence[str]) -> Scored:
        """Score every group by the rewards `names`, and return what `Scored` describes."""
        start = time.monotonic()
        with captured() as printed:
            by_name = {name: self._rewards[name].score_groups(groups) for name in names}
        compared = self._comparisons() if "reward" in names else {}
        scored = [
            GroupScores(
                {name: values[position] for name, values in by_name.items()},
                compared.get(group.prompt.id),
            )
            for position, group in enumerate(groups)
        ]
        seconds, text = time.monotonic() - start, printed.getvalue()[:_MOST_PRINTED]
        return scored, seconds, self._reports(names), text

    def _comparisons(self) -> dict[str, list[list[int | float]]]:
        """Return the comparisons that the selecting reward made, by prompt id; {} without any."""
        ask = getattr(self._rewards["reward"], "comparisons", None)
        return ask() if ask is not None else {}

    def _reports(self, names: Sequence[str]) -> dict[str, Report]:
        judges = {name: getattr(self._rewards[name], "take_report", None) for name in names}
        reports = {name: take() for name, take in judges.items() if take is not None}
        return {name: report for name, report in reports.items() if report is not None}

    def sleep(self) -> None:
        self._move("cpu")

    def wake(self) -> None:
        self._move("cuda")

    def _move(self, device: str) -> None:
        """Move the reward models to a device, so that the trainer can use their GPU meanwhile.

        Reward functions have nothing to move.
        """
        for reward in self._rewards.values():
            move = getattr(reward, "to", None)
            if move is not None:
                move(device)


class RewardWorkers(WorkerGroup[RewardWorker]):
    """M reward workers. A worker that dies is replaced, and its batch is given out again.

    Args:
        rewards: the function that builds each reward, by name.
        batch_groups: how many groups a worker is given at a time.
        labels: the words for each reward in messages, by name.
    """

    kind = "reward"

    def __init__(
        self,
        executor: Executor,
        resources: Sequence[Resources],
        rewards: Mapping[str, BuildReward],
        max_respawns: int = 3,
        batch_groups: int = 32,
        after: Worker[object] | None = None,
        stall_timeout: float | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._rewards = rewards
        self._labels = labels or {}
        self._batch_groups = batch_groups
        self._queue: deque[tuple[Group, tuple[str, ...]]] = deque()
        # of every call its worker's number, the groups it scores, and by which rewards
        self._running: dict[Future[Scored], tuple[int, list[Group], tuple[str, ...]]] = {}
        self._reports: dict[str, Report] = {}
        self.busy_seconds = 0.0
        super().__init__(executor, resources, max_respawns, after, stall_timeout)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._rewards)

    @property
    def has_room(self) -> bool:
        """Whether `submit` may be called: groups that wait are held in memory, so not too many."""
        return len(self._queue) < _BATCHES_AHEAD * self._batch_groups * len(self._workers)

    def submit(self, group: Group, names: Sequence[str]) -> None:
        """Queue a group to be scored by the rewards `names`; a whole batch goes to idle workers."""
        self._queue.append((group, tuple(names)))
        if len(self._queue) >= self._batch_groups:
            self.start()

    def start(self) -> None:
        """Give every idle worker a batch of the groups that wait, even a small batch."""
        working = {number for number, _, _ in self._running.values()}
        for number, worker in enumerate(self._workers):
            if number in working or not self._queue:
                continue
            names = self._queue[0][1]
            groups: list[Group] = []
            while self._queue and len(groups) < self._batch_groups and self._queue[0][1] == names:
                groups.append(self._queue.popleft()[0])
            future = worker.call(RewardWorker.score, groups, names)
            self._running[future] = (number, groups, names)
            self._watch.begin(number, " and ".join(self._labels.get(name, name) for name in names))

    def ready(self) -> Iterator[tuple[Group, GroupScores]]:
        """Yield the groups that have been scored by now, without waiting for others."""
        while (scored := self._next_batch(timeout=0)) is not None:
            yield from scored

    def wait(self) -> Iterator[tuple[Group, GroupScores]]:
        """Wait for the next batch of groups and yield it; yield nothing where no group is left."""
        self.start()
        yield from self._next_batch(timeout=None) or ()

    @property
    def idle(self) -> bool:
        """Whether everything submitted has been handed back."""
        return not self._running and not self._queue

    def begin_stage(self) -> None:
        super().begin_stage()
        self._reports = {}

    @property
    def reports(self) -> dict[str, Report]:
        """The reports of the judges among the rewards on this stage, by reward name."""
        return self._reports

    def sleep(self) -> None:
        self._on_all(RewardWorker.sleep)

    def wake(self) -> None:
        self._on_all(RewardWorker.wake)

    def _next_batch(self, timeout: float | None) -> list[tuple[Group, GroupScores]] | None:
        """Return a batch that is scored within `timeout` seconds, or None; its worker gets another.

        A `timeout` of None waits without limit; the result is None only where no batch is left.
        """
        while self._running:
            calls = {future: number for future, (number, _, _) in self._running.items()}
            future = self._watch.first(calls, timeout)
            if future is None:
                return None
            number, groups, names = self._running.pop(future)
            try:
                scores, seconds, reports, printed = future.result()
            except WorkerDiedError as error:
                self._replace(number, error)
                self._queue.extendleft((group, names) for group in reversed(groups))
                self.start()
                continue
            self.start()
            self.busy_seconds += seconds
            log_printed(self.kind, number, printed)
            for name, report in reports.items():
                before = self._reports.get(name)
                self._reports[name] = report if before is None else before + report
            return list(zip(groups, scores, strict=True))
        return None

    def _factory(self) -> Callable[[], RewardWorker]:
        return partial(RewardWorker, self._rewards)
