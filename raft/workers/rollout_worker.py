"""A rollout worker: it holds one generation engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

from raft.workers.weight_check import EngineState, log_probs_of
from rollout.engines.environment import quiet_libraries
from rollout.types import Group, Prompt, Sampling, StaleWeightsError

if TYPE_CHECKING:
    from rollout.engines.base import Engine, EngineChoice
    from rollout.engines.transfer import SharedChunk, Transfer
    from rollout.engines.vllm import VLLMEngine

# groups go back in small parcels: often enough to keep scoring busy, seldom enough to cost nothing
_PARCEL_GROUPS = 16
_PARCEL_SECONDS = 0.2

BuildEngine = Callable[..., "tuple[Engine, EngineChoice]"]


class RolloutWorker:
    """A worker with one generation engine, which draws by the policy version asked for or raises.

    `build` is `rollout.engines.base.build_engine` with all settings but the policy.
    """

    def __init__(self, build: BuildEngine, model: str, version: int) -> None:
        quiet_libraries()
        self._engine, self._choice = build(model, version=version)

    def describe(self) -> str:
        """Return the engine's name, why it was selected and the dtype it computes in, as text."""
        return f"{self._choice.name} ({self._choice.reason}), {self._engine.dtype}"

    def dtype(self) -> str:
        return self._engine.dtype

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seed: int,
        version: int,
    ) -> Iterator[list[Group]]:
        """Yield the groups of all prompts in lists, each as soon as it has 16 groups or 0.2 s have
        passed since the last.

        Raises StaleWeightsError where the engine holds another version than `version`.
        """
        if self._engine.version != version:
            raise StaleWeightsError(
                f"asked for policy version {version}, this engine holds {self._engine.version}"
            )
        parcel: list[Group] = []
        sent = time.monotonic()
        for group in self._engine.generate(prompts, sampling, seed):
            parcel.append(group)
            if len(parcel) >= _PARCEL_GROUPS or time.monotonic() - sent > _PARCEL_SECONDS:
                yield parcel
                parcel, sent = [], time.monotonic()
        if parcel:
            yield parcel

    def load_weights(self, path: str, version: int) -> None:
        self._engine.load_weights(path, version)

    def receive(self, path: str, version: int, given: Transfer) -> None:
        cast("VLLMEngine", self._engine).receive(path, version, given)

    def begin_taking(self, path: str, names: Sequence[str]) -> None:
        cast("VLLMEngine", self._engine).begin_taking(path, names)

    def take(self, chunk: SharedChunk | None) -> None:
        cast("VLLMEngine", self._engine).take(chunk)

    def end_sync(self, version: int) -> None:
        cast("VLLMEngine", self._engine).end_sync(version)

    def rename(self, version: int) -> None:
        self._engine.version = version

    def read(self, rows: Sequence[Sequence[int]]) -> EngineState:
        """Return the log-probabilities of `rows`, and the checksums of the engine's tensors."""
        return EngineState(log_probs_of(self._engine, rows), self._engine.checksums())

    def sleep(self, forget: bool = False) -> None:
        self._engine.sleep(forget)

    def wake(self) -> None:
        self._engine.wake()
