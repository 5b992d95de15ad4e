"""Rollout workers that hold one policy together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from raft.workers.executors import Executor, Future, R, Resources, Stream, Worker
from raft.workers.group import WorkerGroup
from raft.workers.rollout_worker import BuildEngine, RolloutWorker
from raft.workers.weight_check import (
    CheckResult,
    EngineState,
    Noise,
    Probe,
    check_changed,
    unchanged,
)
from rollout.text.printable import one_line
from rollout.types import (
    EngineError,
    Group,
    InputError,
    Prompt,
    Sampling,
    StaleWeightsError,
    WorkerDiedError,
)

if TYPE_CHECKING:
    from raft.workers.trainer import TrainerWorkers
    from rollout.engines.transfer import SharedChunk, Transfer

log = logging.getLogger("raft")

# how long a group waits for samples before it calls `on_idle`
_IDLE_SECONDS = 0.1
_FROM_DISK = "a sync failed (%s); all engines start again from the disk"


@dataclass(frozen=True)
class Policy:
    """The weights that every rollout worker must hold."""

    path: str
    version: int
    probe: Probe | None = None


class RolloutWorkers(WorkerGroup[RolloutWorker]):
    """N rollout workers holding one policy.

    A worker that dies while it draws is replaced by one built from the *current* policy, and its
    prompts that have no responses yet are given out again.
    """

    kind = "rollout"

    def __init__(
        self,
        executor: Executor,
        resources: Sequence[Resources],
        build: BuildEngine,
        policy: Policy,
        max_respawns: int = 3,
        stall_timeout: float | None = None,
    ) -> None:
        self._build = build
        self._policy = policy
        # between an engine and the trainer that hold the same policy; None until it is measured
        self.noise: Noise | None = None
        self._checksums: list[dict[str, int]] = []  # of the policy; empty until an engine is read
        # of every stream its worker's number, and its prompts without responses so far, by id
        self._streams: dict[Stream[list[Group]], tuple[int, dict[str, Prompt]]] = {}
        super().__init__(executor, resources, max_respawns, stall_timeout=stall_timeout)

    def describe(self) -> str:
        return self._workers[0].call(RolloutWorker.describe).result()

    def dtypes(self) -> set[str]:
        """Return the dtypes that the engines compute in, which their devices may decide."""
        return set(self._on_all(RolloutWorker.dtype))

    @property
    def version(self) -> int:
        return self._policy.version

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seed: int,
        *,
        on_idle: Callable[[], None] | None = None,
    ) -> Iterator[list[Group]]:
        """Yield the groups of all prompts in lists of those that have completed, in any order, all
        drawn by the current version.

        `on_idle` is called again and again while no group has arrived: responses of one length
        complete in waves, and whoever scores one wave must not wait for the next.
        """
        self.begin_stage()
        self._streams = streams = {}

        def start(number: int, share: dict[str, Prompt]) -> None:
            stream = self._workers[number].stream(
                RolloutWorker.generate,
                list(share.values()),
                sampling,
                # without per-prompt seeds, two workers must not draw from the same stream
                seed if sampling.seed_per_prompt else seed + number,
                self._policy.version,
            )
            streams[stream] = (number, share)
            self._watch.begin(number, "drawing")

        for number in range(len(self._workers)):
            share = {prompt.id: prompt for prompt in prompts[number :: len(self._workers)]}
            if share:
                start(number, share)
        while streams:
            stream = self._first_ready(on_idle)
            number, share = streams[stream]
            try:
                groups = self._take(stream)
            except WorkerDiedError as error:
                del streams[stream]
                self._replace(number, error, f"{len(share)} prompts unanswered")
                if share:
                    start(number, share)
                continue
            if groups is None:
                del streams[stream]
                if share:
                    raise EngineError(f"the engine left {len(share)} prompts unanswered")
                continue
            yield groups

    def drain(self) -> Iterator[list[Group]]:
        """Yield the lists of groups that have arrived from a `generate` that was abandoned."""
        while (stream := self._executor.first_ready(list(self._streams), 0)) is not None:
            try:
                groups = self._take(stream)
            except WorkerDiedError:
                groups = None
            if groups is None:
                del self._streams[stream]
            else:
                yield groups

    def sync(
        self, policy: Policy, sender: TrainerWorkers | None = None, *, shares: bool = False
    ) -> list[CheckResult]:
        """Load new weights into every worker and return a verdict on each; [] without a probe.

        The weights come from the policy's folder, or from the trainers `sender`: over NCCL, or,
        where it `shares` the engines' GPUs, in their memory; then it is asleep at the end. Raises
        StaleWeightsError for a worker that does not hold them.
        """
        before, self._policy = self._policy, policy
        checksums, self._checksums = self._checksums, []
        self.begin_stage()
        if sender is not None and shares:
            self._share(policy, sender)
        elif sender is not None:
            self._receive(policy, sender)
        futures = [
            worker.call(RolloutWorker.load_weights, policy.path, policy.version)
            for worker in (self._workers if sender is None else ())
        ]
        for number, future in enumerate(futures):
            try:
                future.result()
            except WorkerDiedError as error:
                self._replace(number, error)  # the replacement is built from the new weights
        verdicts = self.verify(policy.probe)
        if any(kept := unchanged(checksums, self._checksums)):
            (dtype,) = self.dtypes()
            check_changed(kept, self._checksums, (before.path, policy.path, dtype), self.version)
        return verdicts

    def _receive(self, policy: Policy, sender: TrainerWorkers) -> None:
        def beginning(worker: Worker[RolloutWorker]) -> Callable[[Transfer], Future[None]]:
            method = RolloutWorker.receive
            return lambda to: worker.call(method, policy.path, policy.version, to)

        receive = [beginning(worker) for worker in self._workers]
        (dtype,) = self.dtypes()
        try:
            sender.send(receive, max(1, int(self._resources[0].gpus)), dtype)
        except WorkerDiedError as error:  # the others would wait for the dead worker for ever
            log.warning(_FROM_DISK, error)
            self._start_anew()

    def _share(self, policy: Policy, sender: TrainerWorkers) -> None:
        """Have the engines copy the weights of trainers on their GPUs, put those to sleep, and only
        then wake the engines' caches."""

        def take(chunk: SharedChunk | None) -> None:
            self._results(self._call_all(RolloutWorker.take, chunk))

        try:
            (dtype,) = {*self._results(self._call_all(RolloutWorker.dtype))}
            names = sender.tensors(dtype).names
            self._results(self._call_all(RolloutWorker.begin_taking, policy.path, names))
            sender.share(take, dtype)
            sender.sleep()
        except WorkerDiedError as error:
            log.warning(_FROM_DISK, error)
            self._start_anew(beside=sender)
        except InputError:
            raise
        except (RuntimeError, ValueError) as error:  # of CUDA: memory, or no way between processes
            raise InputError("policy.sync", f"ipc: {one_line(error)}", "use disk") from error
        else:
            self._on_all(RolloutWorker.end_sync, policy.version)

    def _results(self, futures: Sequence[Future[R]]) -> list[R]:
        """Return the results of all workers. Raises WorkerDiedError, and replaces none."""
        for number, future in enumerate(futures):
            self._watch.first({future: number})
        return [future.result() for future in futures]

    def relabel(self, version: int) -> None:
        """Rename the workers' weights to `version`, if it is later: nothing was trained between."""
        if version > self.version:
            self._rename(version)

    def return_to(self, policy: Policy) -> None:
        """Make the workers hold `policy`: start them anew on it, or where they hold its folder
        already, rename its version.

        Raises StaleWeightsError for a new worker that does not hold it.
        """
        if policy.path == self._policy.path:
            self._rename(policy.version)
            return
        self._policy, self._checksums = policy, []
        self._start_anew()
        self.verify(policy.probe)

    def _start_anew(self, beside: TrainerWorkers | None = None) -> None:
        """Start all workers again, with the trainers asleep that are on the same GPUs."""
        for worker in self._workers:
            worker.kill()
        if beside is not None:  # vLLM plans its memory by what it finds free
            beside.sleep()
        self._workers = [self._spawn(number) for number in range(len(self._resources))]

    def _rename(self, version: int) -> None:
        self._policy = replace(self._policy, version=version)
        self._on_all(RolloutWorker.rename, version)

    def verify(self, probe: Probe | None) -> list[CheckResult]:
        """Compare every worker with the trainer and with the others, now and whenever one is
        replaced.

        Return a verdict on each worker; [] where `probe` is None. Raises StaleWeightsError for a
        worker that does not hold the policy.
        """
        self._policy = replace(self._policy, probe=probe)
        if probe is None:
            return []
        readings = self._on_all(RolloutWorker.read, probe.rows)
        return [self._judge(number, found, probe) for number, found in enumerate(readings)]

    def sleep(self, forget: bool = False) -> None:
        """Have every engine free its GPU; with `forget` the weights may be lost, and a sync must
        come next."""
        self._on_all(RolloutWorker.sleep, forget)

    def wake(self) -> None:
        self._on_all(RolloutWorker.wake)

    def _first_ready(self, on_idle: Callable[[], None] | None) -> Stream[list[Group]]:
        timeout = _IDLE_SECONDS if on_idle is not None else None
        numbers = {stream: number for stream, (number, _) in self._streams.items()}
        while (stream := self._watch.first(numbers, timeout)) is None:
            assert on_idle is not None, "without a time limit one is always ready"
            on_idle()
        return stream

    def _take(self, stream: Stream[list[Group]]) -> list[Group] | None:
        """Return the next list of groups of a stream, each of them checked; None at its end."""
        groups = stream.take()
        for group in groups or ():
            self._check(group, self._streams[stream][1])
        return groups

    def _check(self, group: Group, share: dict[str, Prompt]) -> None:
        """Check that a group was asked for, and remove its prompt from `share`.

        Raises StaleWeightsError for a group of another policy version, EngineError for a prompt
        that is not in `share`.
        """
        if group.policy_version != self._policy.version:
            raise StaleWeightsError(
                f"prompt {group.prompt.id}: drawn by policy version {group.policy_version}, "
                f"asked for {self._policy.version}"
            )
        if share.pop(group.prompt.id, None) is None:
            raise EngineError(f"the engine answered prompt {group.prompt.id} twice or unasked")

    def _judge(self, number: int, found: EngineState, probe: Probe) -> CheckResult:
        verdict = probe.compare(found.log_probs)
        fault = verdict.fault
        self._checksums = self._checksums or found.checksums
        if fault is None and self._checksums != found.checksums:
            fault = "the checksum of its weights is not that of the other workers"
        if fault is not None:
            raise StaleWeightsError(
                f"rollout worker {number} does not hold policy version {self.version}: {fault}"
            )
        return verdict

    def _replace(self, number: int, error: WorkerDiedError, lost: str = "") -> None:
        super()._replace(number, error, lost)
        if (probe := self._policy.probe) is None:
            return
        try:
            found = self._workers[number].call(RolloutWorker.read, probe.rows).result()
        except WorkerDiedError as another:
            self._replace(number, another, "while starting")
        else:
            self._judge(number, found, probe)

    def _factory(self) -> Callable[[], RolloutWorker]:
        return partial(RolloutWorker, self._build, self._policy.path, self._policy.version)
