"""A vLLM engine in a process of its own: engines that share one process may disturb each other."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from experiments.gpu.sync_faults import leave_unpacked
from raft.workers.executors import Resources
from raft.workers.rollout_worker import RolloutWorker
from rollout.engines.base import Engine, EngineChoice, build_engine
from rollout.types import Completion, Group, Prompt, Sampling

_held: list[Engine] = []


class EngineProcess:
    """Starts at once; every call waits for its answer."""

    def __init__(self, model: str, **settings: Any) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=spawn)
        self.started = self._pool.submit(_build, {"engine": "vllm", **settings, "model": model})

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seed: int = 0, **how: Any
    ) -> list[Group]:
        return self.call(_generate, list(prompts), sampling, seed, how)

    def completions(
        self, prompts: Sequence[Prompt], sampling: Sampling, seed: int = 0, **how: Any
    ) -> dict[str, tuple[Completion, ...]]:
        groups = self.generate(prompts, sampling, seed, **how)
        assert len(groups) == len(prompts)
        return {group.prompt.id: group.completions for group in groups}

    def method(self, name: str, *arguments: Any) -> Any:
        return self.call(_method, name, arguments)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(engine, *arguments)` over there; both must be picklable by name."""
        self.started.result(timeout=300)
        return self._pool.submit(_with_engine, function, arguments).result(timeout=300)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class EngineExecutor:
    """Hands one running engine to `RolloutWorkers` as its only worker."""

    def __init__(self, engine: EngineProcess) -> None:
        self._engine = engine

    def spawn(self, factory: Callable[[], Any], resources: Resources, after: Any = None) -> Any:
        return self

    def gpus(self) -> int:
        return 0

    def check_nodes(self, folder: Any) -> None: ...

    def reserve(self, slots: Any) -> None: ...

    def call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        return _Answer(self._engine.call(_by_worker, method.__name__, arguments))

    def first_ready(self, waiting: Sequence[Any], timeout: float | None = None) -> Any:
        return waiting[0]

    def stream(self, method: Callable[..., Any], *arguments: Any) -> Any:
        raise NotImplementedError

    def kill(self) -> None: ...

    def close(self) -> None: ...


class _Answer:
    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self) -> Any:
        return self._value


def _build(settings: dict[str, Any]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    if settings.pop("unpacked", False):
        leave_unpacked()
    _held.append(build_engine(**settings)[0])


def _with_engine(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(_held[0], *arguments)


def _generate(
    engine: Engine, prompts: list[Prompt], sampling: Sampling, seed: int, how: dict[str, Any]
) -> list[Group]:
    return list(engine.generate(prompts, sampling, seed, **how))


def _by_worker(engine: Engine, name: str, arguments: tuple[Any, ...]) -> Any:
    worker = RolloutWorker(lambda *_, **__: (engine, EngineChoice("vllm", "held")), "", 0)
    return getattr(worker, name)(*arguments)


def _method(engine: Engine, name: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(engine, name)(*arguments)
