"""A watch that logs workers which give no result for long, and ends them after a time limit.

A worker may hang without dying: stopped by its machine, or in a call that never returns. A wait for
results ends by itself only when a worker dies.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from raft.workers.executors import Executor, Waiting

log = logging.getLogger("raft")

_TELL_AFTER = 60.0  # seconds; then after twice as long, and so on
_LOOK_EVERY = 1.0


@dataclass
class _Work:
    """What a worker does, since when, and after how many seconds of silence a warning is logged."""

    doing: str = ""
    since: float = field(default_factory=time.monotonic)
    tell_after: float = field(default_factory=lambda: _TELL_AFTER)


class SilenceWatch:
    """A wait for calls of a worker group that notices workers which are silent for long.

    Args:
        kind: what the workers are, for messages.
        end: ends a worker by its number; its calls then raise WorkerDiedError.
        limit: seconds without a result after which a worker is ended; None: never.
    """

    def __init__(
        self, executor: Executor, kind: str, end: Callable[[int], None], limit: float | None
    ) -> None:
        self._executor = executor
        self._kind = kind
        self._end = end
        self._limit = limit
        self._work: defaultdict[int, _Work] = defaultdict(_Work)

    def begin(self, number: int, doing: str) -> None:
        """Note that worker `number` begins to do `doing` now."""
        self._work[number] = _Work(doing)

    def first(self, calls: Mapping[Waiting, int], timeout: float | None = None) -> Waiting | None:
        """Return the first of `calls` that has a result; None after `timeout` seconds without one.

        `calls` maps each call to the number of its worker; a `timeout` of None is no limit.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _LOOK_EVERY if until is None else max(0.0, until - time.monotonic())
            ready = self._executor.first_ready(list(calls), min(left, _LOOK_EVERY))
            if ready is not None:
                number = calls[ready]
                self.begin(number, self._work[number].doing)
                return ready
            for number in set(calls.values()):
                self._look_at(number, self._work[number])
            if until is not None and left <= _LOOK_EVERY:
                return None

    def _look_at(self, number: int, work: _Work) -> None:
        silent = time.monotonic() - work.since
        said = f"{self._kind} worker {number}: silent for {silent:.0f} s"
        said += f" in {work.doing}" if work.doing else ""
        if self._limit is not None and silent > self._limit:
            log.warning("%s, longer than cluster.stall_timeout; ending it", said)
            self.begin(number, work.doing)
            self._end(number)
        elif silent > work.tell_after:
            log.warning("%s", said)
            work.tell_after *= 2
