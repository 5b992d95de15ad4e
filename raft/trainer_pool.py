"""One trainer, or several that share each optimizer step; begun again from the last policy."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

from raft.executors import Executor, Resources, Worker
from rollout.types import WorkerDiedError

log = logging.getLogger("raft")


class TrainerPool:
    """One trainer, or N that share each step (data parallel); rank 0 writes.

    Dead trainers are started again from the last checkpoint, and the update is done once more: it
    depends on that checkpoint, the rows and the seed alone.
    """

    def __init__(
        self,
        executor: Executor,
        resources: Sequence[Resources],
        factory: Callable[..., Any],
        trainer: dict[str, Any],
        checkpoint: str | None,
        max_respawns: int = 3,
    ) -> None:
        self._executor = executor
        self._resources = resources
        self._factory = factory
        self._trainer = trainer
        self._checkpoint = checkpoint
        self._max_respawns = max_respawns
        self._workers = self._spawn()

    def train(self, rows_path: str, out_dir: str, final_dir: str, seed: int) -> dict[str, Any]:
        """One SFT update on the rows of a file; writes the new policy to `out_dir`.

        `final_dir` is where the caller will move it: the checkpoint of the next (re)start.
        """
        for attempt in range(self._max_respawns + 1):
            futures = [w.call("train", rows_path, out_dir, seed) for w in self._workers]
            try:
                metrics, *_ = [future.result() for future in futures]
            except WorkerDiedError as error:
                if attempt == self._max_respawns:
                    raise
                log.warning("a trainer died (%s); starting again from the last policy", error)
                self._restart()
                continue
            self._checkpoint = final_dir
            return metrics
        raise AssertionError("unreachable")

    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        first, *_ = [worker.call("log_probs", token_ids) for worker in self._workers]
        return first.result()

    def sleep(self) -> None:
        for future in [w.call("sleep") for w in self._workers]:
            future.result()

    def wake(self) -> None:
        for future in [w.call("wake") for w in self._workers]:
            future.result()

    def _restart(self) -> None:
        for worker in self._workers:
            worker.kill()
        self._workers = self._spawn()

    def _spawn(self) -> list[Worker]:
        world = len(self._resources)
        rendezvous = {} if world == 1 else {"world_size": world, "port": _free_port()}
        return [
            self._executor.spawn(
                self._factory,
                {**self._trainer, **rendezvous, "rank": rank, "checkpoint": self._checkpoint},
                resources,
            )
            for rank, resources in enumerate(self._resources)
        ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
