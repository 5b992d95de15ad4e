"""What measures policies by their log-probabilities, in a process of its own.

The worker that measures policies: where it sits, who makes room for it, and its replacement.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from raft.monitor.kl import k3_sum
from raft.monitor.log_probs import Row, import_what_loads, log_probs
from raft.workers.executors import Executor, Resources
from rollout.engines.environment import quiet_libraries
from rollout.types import WorkerDiedError

__all__ = [
    "LogProbPool",
    "LogProbWorker",
    "Measured",
]


@dataclass(frozen=True)
class Measured:
    """Of every sample log π, log π0 and k3, each summed over its tokens; perplexity of the texts.

    Empty, and None, where nothing was asked.
    """

    log_probs: list[float]
    start_log_probs: list[float]
    kl_k3: list[float]
    perplexity: float | None


class LogProbWorker:
    """Compares policies with the policy `start`. Holds no weights between calls."""

    def __init__(self, start: str, dtype: str = "auto") -> None:
        quiet_libraries()
        import_what_loads(start)
        self._start = start
        self._dtype = dtype

    def measure(self, policy: str, samples: Sequence[Row], texts: Sequence[Row]) -> Measured:
        """`samples` are what `policy` drew, `texts` what its perplexity is measured on."""
        now = log_probs(policy, [*samples, *texts], self._dtype)
        sampled, read = now[: len(samples)], now[len(samples) :]
        before = log_probs(self._start, samples, self._dtype) if samples else []
        return Measured(
            log_probs=[float(one.sum()) for one in sampled],
            start_log_probs=[float(one.sum()) for one in before],
            kl_k3=[k3_sum(one, other) for one, other in zip(sampled, before, strict=True)],
            perplexity=_perplexity(read) if texts else None,
        )


def _perplexity(log_probs_of_texts: Sequence[np.ndarray]) -> float:
    every_T = np.concatenate(log_probs_of_texts)
    return math.exp(-float(every_T.mean()))


log = logging.getLogger("raft")


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
