"""One trainer, or several that share each optimizer step; begun again from the last policy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raft.workers.executors import Executor, Future, Resources, Worker
from rollout.storage.files import remove_tree
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
        self._joining: list[Future] = []
        self._workers = self._spawn()

    def train(self, rows_path: str, out_dir: str, final_dir: str, seed: int) -> dict[str, Any]:
        """One SFT update on the rows of a file; writes the new policy to `out_dir`.

        `final_dir` is where the caller will move it: the checkpoint of the next (re)start.
        """
        for attempt in range(self._max_respawns + 1):
            try:
                metrics = self._on_all("train", rows_path, out_dir, seed)
            except WorkerDiedError as error:
                if attempt == self._max_respawns:
                    raise WorkerDiedError(
                        f"trainers died {attempt + 1} times (cluster.max_respawns is "
                        f"{self._max_respawns}); the last: {error}"
                    ) from error
                log.warning("a trainer died (%s); starting again from the last policy", error)
                self._restart()
                remove_tree(Path(out_dir))
                continue
            self._checkpoint = final_dir
            return metrics
        raise AssertionError("unreachable")

    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        return self._retried("log_probs", token_ids)

    def sleep(self) -> None:
        self._retried("sleep")

    def wake(self) -> None:
        self._retried("wake")

    def _retried(self, method: str, *arguments: Any) -> Any:
        """Rank 0's answer; after a death, that of trainers begun from the last checkpoint."""
        try:
            return self._on_all(method, *arguments)
        except WorkerDiedError as error:
            if self._max_respawns == 0:
                raise
            log.warning("a trainer died (%s); starting again from the last policy", error)
            self._restart()
            return self._on_all(method, *arguments)

    def _on_all(self, method: str, *arguments: Any) -> Any:
        """Call every rank; rank 0's answer. Whoever fails first is heard first: ranks that wait
        for a dead one would wait for ever."""
        futures = [worker.call(method, *arguments) for worker in self._workers]
        waiting = [*self._joining, *futures]
        while waiting:
            ready = self._executor.first_ready(waiting)
            assert ready is not None, "without a time limit one is always ready"
            ready.result()
            waiting.remove(ready)
        self._joining = []
        return futures[0].result()

    def _restart(self) -> None:
        for worker in self._workers:
            worker.kill()  # the living ranks of a broken group are of no use
        self._workers = self._spawn()

    def _spawn(self) -> list[Worker]:
        world = len(self._resources)
        group = {} if world == 1 else {"world_size": world}
        workers = [
            self._executor.spawn(
                self._factory,
                {**self._trainer, **group, "rank": rank, "checkpoint": self._checkpoint},
                resources,
            )
            for rank, resources in enumerate(self._resources)
        ]
        self._joining = []
        if world > 1:
            # on the machine of rank 0, which need not be ours
            host, port = workers[0].call("rendezvous").result()
            self._joining = [worker.call("join", host, port) for worker in workers]
        return workers
