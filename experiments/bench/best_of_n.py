"""Best-of-n: its generation against bare `LLM.generate`, and how far scoring overlaps drawing.

Four ways take turns, N responses to each prompt: bare vLLM; the toolkit drawing to disk without
scores; a reward model scoring those responses alone; the toolkit drawing and scoring at once, as
`raft bon` does. Whoever draws has one core and whoever scores another. Required: drawing at least
0.9 of bare in tokens per second; both at once at most 1.15 times the slower of the two alone. The
reward model is random; `--reward-layers` makes it cost what drawing costs, where overlap is
hardest.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from experiments.bench.generation import Setting, encoded_prompts
from experiments.bench.job import quiet
from experiments.bench.scoring import build_classifier
from experiments.bench.table import spread, table
from experiments.data import data

BARE, DRAW, SCORE, BOTH = "bare LLM.generate", "draw", "score", "draw and score"
LIMITS = {"generation": 0.9, "overlap": 1.15}
_MAX_LENGTH = 512
# responses that a reward worker gets at once, as in `raft bon`
_BATCH_RESPONSES = 256


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    quiet()
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        found = measure(Path(folder), options)
    print(json.dumps(found) if options.json else report(found))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return seconds of every variant, one number per repeat, and the tokens of each."""
    from raft.workers.ray_executor import RayExecutor

    model = options.model or str(data("models/stories260k"))
    build_classifier(folder / "reward", _MAX_LENGTH, options.reward_layers)
    prompts = encoded_prompts(model, options)
    executor = RayExecutor("local")
    try:
        bench = _Bench(folder, model, prompts, options, executor)
        ways: dict[str, Callable[[int], int]] = {
            BARE: bench.bare, DRAW: bench.draw, SCORE: bench.score, BOTH: bench.both,
        }  # fmt: skip
        for way in ways.values():
            way(0)  # warms up, and draws the responses that are scored alone
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        tokens: dict[str, list[int]] = {name: [] for name in ways}
        for repeat in range(1, options.repeats + 1):
            for name in list(ways) if repeat % 2 else list(ways)[::-1]:
                start = time.monotonic()
                tokens[name].append(ways[name](repeat))
                seconds[name].append(time.monotonic() - start)
    finally:
        executor.close()
    return {"responses": len(prompts) * options.k, "seconds": seconds, "tokens": tokens}


class _Bench:
    """The workers of all variants, each on its core, and their requests."""

    def __init__(
        self, folder: Path, model: str, prompts: list[Any], options: Any, executor: Any
    ) -> None:
        from raft.assemble import WorkerGroups
        from raft.workers.executors import Resources
        from raft.workers.reward import RewardWorkers
        from raft.workers.rollout import Policy, RolloutWorkers
        from rewards.build import build_reward
        from rollout.engines.base import build_engine

        one = (Resources(threads=1),)
        first, *_, last = sorted(os.sched_getaffinity(0)) * 2
        engine = partial(
            build_engine, engine="vllm", dtype="float32", max_num_seqs=options.max_num_seqs
        )
        reward = partial(
            build_reward, "model", model=str(folder / "reward"), format="plain", bos="none",
            max_length=_MAX_LENGTH,
        )  # fmt: skip
        groups = max(1, min(32, _BATCH_RESPONSES // options.k))
        drawing, scoring = _OnCore(executor, first), _OnCore(executor, last)
        self._workers = WorkerGroups(
            rollout=RolloutWorkers(drawing, one, engine, Policy(model, 0)),
            reward=RewardWorkers(scoring, one, {"reward": reward}, batch_groups=groups),
            trainer=None,
            take_turns=False,
        )
        bare = partial(_BareWorker, model=model, options=options, prompts=prompts)
        self._bare = drawing.spawn(bare, one[0])
        self._folder, self._prompts, self._options = folder, prompts, options
        self._drawn: Any = None

    def bare(self, seed: int) -> int:
        return self._bare.call(_BareWorker.generate, seed).result()

    def draw(self, seed: int) -> int:
        store, tokens = self._collect(seed, [])
        self._drawn = store
        return tokens

    def both(self, seed: int) -> int:
        return self._collect(seed, ["reward"])[1]

    def score(self, seed: int) -> int:
        """Score the responses drawn last; reading them back counts as part of it."""
        pool, tokens = self._workers.reward, 0
        for row, prompt in zip(self._drawn.rows(), self._prompts, strict=True):
            while not pool.has_room:
                list(pool.wait())
            pool.submit(row.group(prompt), ["reward"])
            list(pool.ready())
            tokens += sum(map(len, row.token_ids))
        while not pool.idle:
            list(pool.wait())
        return tokens

    def _collect(self, seed: int, names: list[str]) -> tuple[Any, int]:
        from raft.collect import collect
        from rollout.storage.rollout_store import RolloutStore
        from rollout.types import Sampling

        store = RolloutStore(self._folder / f"{seed}-{len(names)}", "pool", self._prompts, 0)
        sampling = Sampling(
            k=self._options.k,
            max_new_tokens=self._options.new_tokens,
            seed_per_prompt=self._options.seeds == "per_prompt",
        )
        spent = collect(
            self._workers, store, self._prompts, sampling, seed,
            names=names, title="drawing",
        )  # fmt: skip
        return store, spent.tokens


class _BareWorker:
    """Bare vLLM in a process like that of the toolkit's worker."""

    def __init__(self, model: str, options: Any, prompts: list[Any]) -> None:
        quiet()
        from rollout.engines.vllm import VLLMEngine

        self._llm = VLLMEngine(model, dtype="float32", max_num_seqs=options.max_num_seqs)._llm
        self._setting = Setting(prompts, options, per_prompt=options.seeds == "per_prompt")

    def generate(self, seed: int) -> int:
        return self._setting.bare(self._llm, seed, text="vllm")


class _OnCore:
    """An executor whose workers and their threads stay on one core."""

    def __init__(self, executor: Any, core: int) -> None:
        self._executor = executor
        self._core = core

    def gpus(self) -> int:
        return self._executor.gpus()

    def check_nodes(self, folder: Any) -> None:
        self._executor.check_nodes(folder)

    def reserve(self, slots: Any) -> None:
        self._executor.reserve(slots)

    def spawn(self, factory: Callable[[], Any], resources: Any, after: Any = None) -> Any:
        return self._executor.spawn(partial(_pinned, factory, self._core), resources, after)

    def first_ready(self, waiting: Sequence[Any], timeout: float | None = None) -> Any:
        return self._executor.first_ready(waiting, timeout)

    def close(self) -> None:
        self._executor.close()


def _pinned(factory: Callable[[], Any], core: int) -> Any:
    os.sched_setaffinity(0, {core})
    return factory()


def report(found: dict[str, Any]) -> str:
    seconds, tokens = found["seconds"], found["tokens"]
    rates = {
        name: [count / one for count, one in zip(tokens[name], taken, strict=True)]
        for name, taken in seconds.items()
    }
    rows = [
        [name, f"{median(taken):.1f}", f"{median(rates[name]):.0f}"]
        for name, taken in seconds.items()
    ]
    generation, overlap = ratios(found)
    return "\n".join(
        [
            f"{found['responses']} responses",
            table(("way", "seconds", "tokens/s"), rows),
            f"draw to bare, tokens/s: {spread(generation)} (required: {LIMITS['generation']})",
            f"both to the slower alone, seconds: {spread(overlap)} "
            f"(required: at most {LIMITS['overlap']})",
        ]
    )


def ratios(found: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Return two ratios of each repeat.

    They are the tokens per second of drawing over those of bare vLLM, and the seconds of drawing
    and scoring at once over those of the slower of the two alone.
    """
    seconds, tokens = found["seconds"], found["tokens"]
    generation = [
        (ours / mine) / (bare / other)
        for ours, mine, bare, other in zip(
            tokens[DRAW], seconds[DRAW], tokens[BARE], seconds[BARE], strict=True
        )
    ]
    overlap = [
        both / max(draw, score)
        for both, draw, score in zip(seconds[BOTH], seconds[DRAW], seconds[SCORE], strict=True)
    ]
    return generation, overlap


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.best_of_n", description=__doc__
    )
    parser.add_argument("--model", help="default: $RAFT_DATA/models/stories260k")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--k", type=int, default=64, help="responses per prompt")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--max-num-seqs", type=int, default=256, help="sequences in flight")
    parser.add_argument("--seeds", choices=("none", "per_prompt"), default="per_prompt")
    parser.add_argument("--reward-layers", type=int, default=2, help="of the reward model")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
