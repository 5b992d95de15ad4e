"""Trainer workers: one, or several that share each optimizer step; all restart when one dies."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Concatenate

from raft.updates.optimizer import is_whole
from raft.updates.trainer import Trainer, Update
from raft.workers.executors import Executor, Future, P, R, Resources, Worker
from raft.workers.silence import SilenceWatch
from raft.workers.weight_check import log_probs_of
from rollout.engines.transfer import SentTensors, SharedChunk, Transfer
from rollout.errors import nccl_failure
from rollout.storage.files import remove_tree
from rollout.types import EngineError, WorkerDiedError

log = logging.getLogger("raft")

# by the method in which NCCL failed: the config key to blame, and a setting that needs no NCCL;
# for other methods the key is `train`, and there is no such setting
_BETWEEN_GPUS = {"send": ("policy.sync", "policy.sync: disk")}


class TrainerWorkers:
    """One trainer, or N that share each step (data parallel); rank 0 writes.

    Dead trainers are started again from the last whole checkpoint, and the updates since are made
    once more: they depend on that checkpoint, the rows and the seeds alone. No rank is replaced
    alone, since the living ranks of a broken process group are of no use.

    Args:
        build: `raft.updates.trainer.build_trainer` with all settings but `checkpoint`, `rank` and
            `world_size`.
        checkpoint: the policy to go on from; None for the starting model.
        since: the updates that were made after it.
    """

    def __init__(
        self,
        executor: Executor,
        resources: Sequence[Resources],
        build: Callable[..., Trainer],
        checkpoint: str | None,
        max_respawns: int = 3,
        after: Worker[object] | None = None,
        stall_timeout: float | None = None,
        since: Sequence[Update] = (),
    ) -> None:
        self._after = after
        self._watch = SilenceWatch(executor, "trainer", self._kill, stall_timeout)
        self._executor = executor
        self._resources = resources
        self._build = build
        self._checkpoint = checkpoint
        self._since = list(since)
        self._unstored: str | None = None  # the checkpoint to be made whole
        self._max_respawns = max_respawns
        self._joining: list[Future[None]] = []
        self._receiving: list[Future[None]] = []
        self._storing: list[Future[None]] = []
        self._workers = self._spawn()

    def train(self, update: Update) -> dict[str, float | int]:
        """Make the update, which must have an `out_dir`, and return its metrics.

        Where it is `whole`, the caller must have `store` write the optimizer to the new policy's
        folder, which it may have moved. Raises WorkerDiedError where trainers die too often.
        """
        assert update.out_dir is not None, "the new policy is what is wanted"
        self.wait_stored()
        for attempt in range(self._max_respawns + 1):
            try:
                metrics = self._on_all(Trainer.train, update)
            except WorkerDiedError as error:
                if attempt == self._max_respawns:
                    raise WorkerDiedError(
                        f"trainers died {attempt + 1} times (cluster.max_respawns is "
                        f"{self._max_respawns}); the last: {error}"
                    ) from error
                self._restart(error)
                remove_tree(Path(update.out_dir))
                continue
            self._since.append(update)
            return metrics
        raise AssertionError("unreachable")

    def store(self, checkpoint: str) -> None:
        """Begin to write the optimizer to the checkpoint of the last update, in the background.

        `wait_stored` waits until it is written. So does every other call to the trainers meanwhile,
        which then raises what goes wrong in the writing.
        """
        self._unstored = checkpoint
        if not self._behind:
            self._storing = [worker.call(Trainer.store, checkpoint) for worker in self._workers]

    def wait_stored(self) -> None:
        """Wait until the last checkpoint is whole; dead trainers restart from it from then on."""
        if (checkpoint := self._unstored) is not None:
            self._retried(Trainer.store, checkpoint)  # files that are written stay as they are
            self._begin_from(checkpoint)

    @property
    def on_gpu(self) -> bool:
        return self._resources[0].gpus > 0

    def rehearse(self, prompt: int, response: int) -> float:
        """Run `Trainer.rehearse` on all ranks and return rank 0's GiB of GPU memory.

        Raises InputError where memory is short.
        """
        return self._retried(Trainer.rehearse, prompt, response)

    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        return self._retried(Trainer.log_probs, token_ids)

    def read(self, rows: Sequence[Sequence[int]]) -> tuple[float, ...]:
        """Return the log-probabilities (nats) of the tokens of several texts, end to end."""
        return log_probs_of(self, rows)

    def dtype(self) -> str:
        return self._retried(Trainer.dtype)

    def tensors(self, dtype: str) -> SentTensors:
        """Return the names, dtypes and shapes of what engines of `dtype` get."""
        return self._retried(Trainer.tensors, dtype)

    def send(
        self, receive: Sequence[Callable[[Transfer], Future[None]]], width: int, dtype: str
    ) -> None:
        """Send the policy in `dtype` to engines of `width` GPUs each.

        Each of `receive` makes one engine begin to receive.

        Raises:
            WorkerDiedError: an engine or a trainer died. The trainers have been restarted (unless
                `max_respawns` is 0); the engines are left with the transfer incomplete.
        """
        tensors = self.tensors(dtype)
        host, port = self._workers[0].call(Trainer.rendezvous).result()
        world = 1 + width * len(receive)
        to = [Transfer(host, port, 1 + width * n, world, tensors) for n in range(len(receive))]
        with self._restarted_by_a_death():
            try:
                self._receiving = [begin(one) for begin, one in zip(receive, to, strict=True)]
                self._call(Trainer.send, to[0], dtype)
            finally:
                self._receiving = []

    def share(self, take: Callable[[SharedChunk | None], None], dtype: str) -> None:
        """Give the policy in `dtype` to engines on the trainers' GPUs, chunk by chunk.

        `take` has all engines copy a chunk, and with None end; it returns when they have.

        Raises:
            WorkerDiedError: an engine or a trainer died; as `send`.
        """
        self._catch_up()
        with self._restarted_by_a_death():  # an engine's too: the buffer that it held is lost
            first, chunk = True, None
            while first or chunk is not None:
                chunk = _merged(self._call(Trainer.share, dtype, first))
                take(chunk)
                first = False

    @contextlib.contextmanager
    def _restarted_by_a_death(self) -> Iterator[None]:
        try:
            yield
        except WorkerDiedError as error:
            if self._max_respawns:
                self._restart(error, "a sync failed")
            raise

    def sleep(self) -> None:
        self._retried(Trainer.sleep)

    def wake(self) -> None:
        self._retried(Trainer.wake)

    def _retried(
        self, method: Callable[Concatenate[Trainer, P], R], *arguments: P.args, **named: P.kwargs
    ) -> R:
        """Call every rank and return rank 0's result; after a death, restart all and call again."""
        try:
            return self._on_all(method, *arguments, **named)
        except WorkerDiedError as error:
            if self._max_respawns == 0:
                raise
            self._restart(error)
            return self._on_all(method, *arguments, **named)

    def _on_all(
        self, method: Callable[Concatenate[Trainer, P], R], *arguments: P.args, **named: P.kwargs
    ) -> R:
        """Call every rank and return rank 0's result, as soon as all ranks are done.

        Results are taken as they come, so that a rank that fails is noticed while the others still
        wait for it. The first call after a start makes the updates since the checkpoint first.
        """
        self._catch_up()
        return self._call(method, *arguments, **named)[0]

    def _catch_up(self) -> None:
        while self._behind:
            self._call(Trainer.train, replace(self._behind[0], out_dir=None, whole=False))
            del self._behind[0]

    def _call(
        self, method: Callable[Concatenate[Trainer, P], R], *arguments: P.args, **named: P.kwargs
    ) -> list[R]:
        futures = [worker.call(method, *arguments, **named) for worker in self._workers]
        waiting: dict[Future[R] | Future[None], int] = {
            call: rank
            for calls in (self._joining, self._storing, futures)
            for rank, call in enumerate(calls)
        } | dict.fromkeys(self._receiving, 0)
        for rank in range(len(futures)):
            self._watch.begin(rank, method.__name__)
        while waiting:
            ready = self._watch.first(waiting)
            assert ready is not None, "without a time limit one is always ready"
            try:
                ready.result()
            except RuntimeError as error:
                where, otherwise = _BETWEEN_GPUS.get(method.__name__, ("train", ""))
                if failure := nccl_failure(error, where, otherwise):
                    raise failure from error
                raise
            del waiting[ready]
        self._joining, self._storing = [], []
        return [future.result() for future in futures]

    def _kill(self, rank: int) -> None:
        self._workers[rank].kill()

    def _restart(self, error: WorkerDiedError, what: str = "a trainer died") -> None:
        log.warning("%s (%s); trainers start again from the last policy", what, error)
        for worker in self._workers:
            worker.kill()
        if self._unstored is not None and is_whole(Path(self._unstored)):
            self._begin_from(self._unstored)
        self._workers = self._spawn()

    def _begin_from(self, checkpoint: str) -> None:
        self._checkpoint, self._since, self._unstored = checkpoint, [], None

    def _spawn(self) -> list[Worker[Trainer]]:
        world = len(self._resources)
        build = partial(self._build, checkpoint=self._checkpoint, world_size=world)
        workers = [
            self._executor.spawn(partial(build, rank=rank), resources, self._after)
            for rank, resources in enumerate(self._resources)
        ]
        self._joining, self._storing, self._behind = [], [], list(self._since)
        if world > 1:
            # on the machine of rank 0, which need not be ours
            host, port = workers[0].call(Trainer.rendezvous).result()
            self._joining = [worker.call(Trainer.join, host, port) for worker in workers]
        return workers


def _merged(chunks: Sequence[SharedChunk | None]) -> SharedChunk | None:
    """Return the chunks of all ranks, which hold the same tensors, as one; None at their end."""
    there = [one for one in chunks if one is not None]
    if not there:
        return None
    if len(there) < len(chunks) or any(one.tensors != there[0].tensors for one in there):
        raise EngineError("the trainers hold different tensors in a chunk")
    return replace(there[0], handles={gpu: x for one in there for gpu, x in one.handles.items()})
