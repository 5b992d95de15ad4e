"""N rollout workers: shard, stream, replace the dead, and never let an old policy speak."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raft.workers.executors import Executor, Resources, Worker
from raft.workers.workers import RolloutWorker
from rollout.types import (
    EngineError,
    Group,
    Prompt,
    Sampling,
    StaleWeightsError,
    WorkerDiedError,
)

log = logging.getLogger("raft")

_BEAT_SECONDS = 0.1


@dataclass(frozen=True)
class Probe:
    """One fixed text and the trainer's log-probabilities of it: what an engine must reproduce."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    tolerance: float


@dataclass(frozen=True)
class Policy:
    """The weights that every rollout worker must hold."""

    path: str
    version: int
    probe: Probe | None = None


class RolloutPool:
    """N rollout workers holding one policy.

    A worker that dies in mid-generation is replaced by one built from the *current* policy, and
    the prompts it had not answered are given out again.
    """

    def __init__(
        self,
        executor: Executor,
        resources: Sequence[Resources],
        engine: dict[str, Any],
        policy: Policy,
        max_respawns: int = 3,
    ) -> None:
        self._executor = executor
        self._resources = resources
        self._engine = engine
        self._policy = policy
        self._max_respawns = max_respawns
        self._respawns = 0
        self._workers = [self._spawn(number) for number in range(len(resources))]

    def describe(self) -> str:
        return self._workers[0].call("describe").result()

    @property
    def version(self) -> int:
        return self._policy.version

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seed: int,
        *,
        seed_per_prompt: bool,
        on_idle: Callable[[], None] | None = None,
    ) -> Iterator[Group]:
        """Yield every prompt's group as it completes, in any order, under the current version.

        `on_idle` is called again and again while no group is there: responses of one length
        complete in waves, and whoever scores the last wave must not wait for the next one.
        """
        settings = (sampling, seed, seed_per_prompt, self._policy.version)
        self._respawns = (
            0  # deaths are counted per stage: a long run may lose a worker now and then
        )
        streams: dict[Any, tuple[int, dict[str, Prompt]]] = {}

        def start(number: int, share: dict[str, Prompt]) -> None:
            # without per-prompt seeds, two workers must not draw from the same stream
            own = settings if seed_per_prompt else (sampling, seed + number, *settings[2:])
            stream = self._workers[number].stream("generate", list(share.values()), *own)
            streams[stream] = (number, share)

        for number in range(len(self._workers)):
            share = {prompt.id: prompt for prompt in prompts[number :: len(self._workers)]}
            if share:
                start(number, share)
        while streams:
            stream = self._first_ready(list(streams), on_idle)
            number, share = streams[stream]
            try:
                groups = stream.take()
            except WorkerDiedError as error:
                del streams[stream]
                self._replace(number, error, what=f"{len(share)} prompts unanswered")
                if share:
                    start(number, share)
                continue
            if groups is None:
                del streams[stream]
                if share:
                    raise EngineError(f"the engine left {len(share)} prompts unanswered")
                continue
            for group in groups:
                self._check_version(group)
                if share.pop(group.prompt.id, None) is None:
                    raise EngineError(
                        f"the engine answered prompt {group.prompt.id} twice or unasked"
                    )
                yield group

    def _first_ready(self, streams: list[Any], on_idle: Callable[[], None] | None) -> Any:
        beat = _BEAT_SECONDS if on_idle is not None else None
        while (stream := self._executor.first_ready(streams, beat)) is None:
            assert on_idle is not None, "without a time limit one is always ready"
            on_idle()
        return stream

    def sync(self, policy: Policy) -> None:
        """Give every worker the new weights in place and verify each against the trainer."""
        self._policy = policy
        self._respawns = 0
        # a replacement is built from the new weights already
        self._on_all("load_weights", policy.path, policy.version, again=False)
        self.verify(policy.probe)

    def verify(self, probe: Probe | None) -> None:
        """Compare every worker with the trainer, now and whenever one is replaced."""
        self._policy = replace(self._policy, probe=probe)
        if probe is not None:
            for number, found in enumerate(self._on_all("log_probs", probe.token_ids)):
                self._compare(number, found, probe)

    def sleep(self) -> None:
        self._on_all("sleep")

    def wake(self) -> None:
        self._on_all("wake")

    def _on_all(self, method: str, *arguments: Any, again: bool = True) -> list[Any]:
        """Call every worker; a dead one is replaced and (`again`) its replacement called."""
        results: list[Any] = []
        futures = [worker.call(method, *arguments) for worker in self._workers]
        for number, future in enumerate(futures):
            try:
                results.append(future.result())
            except WorkerDiedError as error:
                self._replace(number, error, what=f"lost in {method}")
                worker = self._workers[number]
                results.append(worker.call(method, *arguments).result() if again else None)
        return results

    def _compare(self, number: int, found: Sequence[float], probe: Probe) -> None:
        differences = [abs(a - b) for a, b in zip(found, probe.log_probs, strict=True)]
        mean = sum(differences) / max(len(differences), 1)
        # written so that NaN fails too
        if not mean <= probe.tolerance:
            raise StaleWeightsError(
                f"rollout worker {number} does not hold policy version {self.version}: its "
                f"log-probabilities differ from the trainer's by {mean:.4g} nats on average "
                f"(tolerance {probe.tolerance:g})"
            )

    def _check_version(self, group: Group) -> None:
        if group.policy_version != self._policy.version:
            raise StaleWeightsError(
                f"prompt {group.prompt.id}: drawn by policy version {group.policy_version}, "
                f"asked for {self._policy.version}"
            )

    def _replace(self, number: int, error: WorkerDiedError, what: str) -> None:
        self._respawns += 1
        if self._respawns > self._max_respawns:
            raise WorkerDiedError(
                f"rollout workers died {self._respawns} times (cluster.max_respawns is "
                f"{self._max_respawns}); the last: {error}"
            ) from error
        log.warning("rollout worker %d died (%s); starting another", number, what)
        self._workers[number] = self._spawn(number)
        if (probe := self._policy.probe) is None:
            return
        try:
            found = self._workers[number].call("log_probs", probe.token_ids).result()
        except WorkerDiedError as another:
            self._replace(number, another, what="lost while starting")
        else:
            self._compare(number, found, probe)

    def _spawn(self, number: int) -> Worker:
        current = {"model": self._policy.path, "version": self._policy.version}
        return self._executor.spawn(
            RolloutWorker, {**self._engine, **current}, self._resources[number]
        )
