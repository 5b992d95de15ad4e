"""A rollout worker: it holds one generation engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

from raft.workers.probe import Reading, said
from rollout.engines.environment import quiet_libraries
from rollout.types import Group, Prompt, Sampling, StaleWeightsError

if TYPE_CHECKING:
    from rollout.engines.base import Engine, EngineChoice, Transfer
    from rollout.engines.vllm import VLLMEngine

# groups go back in small parcels: often enough to keep scoring busy, seldom enough to cost nothing
_PARCEL_GROUPS = 16
_PARCEL_SECONDS = 0.2

BuildEngine = Callable[..., "tuple[Engine, EngineChoice]"]


class RolloutWorker:
    """One generation engine. Refuses to draw under another policy version than asked for.

    `build` is `rollout.engines.base.build_engine` with all settings but the policy.
    """

    def __init__(self, build: BuildEngine, model: str, version: int) -> None:
        quiet_libraries()
        self._engine, self._choice = build(model, version=version)

    def describe(self) -> str:
        """The engine, why it was chosen, and what it computes in."""
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
        """The groups of all prompts in parcels, each as soon as it is full or old."""
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

    def rename(self, version: int) -> None:
        self._engine.version = version

    def read(self, rows: Sequence[Sequence[int]]) -> Reading:
        """What tells which weights it holds."""
        return Reading(said(self._engine, rows), self._engine.checksums())

    def sleep(self, forget: bool = False) -> None:
        self._engine.sleep(forget)

    def wake(self) -> None:
        self._engine.wake()
