"""Tokens per second: the toolkit's vLLM engine, and its Ray pool, against bare `LLM.generate`.

Same prompts, same sampling, turn about in one process on one engine (the pool's worker has an
engine of its own). Once without and once with a seed for every prompt. Required: at least 0.9.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from experiments.bench.job import Job, quiet, read_prompts, save
from experiments.bench.table import run_module, spread, table
from experiments.data import data

Draw = Callable[[int], int]  # seed -> tokens drawn

# sequences in flight: those of configs/stories_cpu.yaml, and vLLM's default
_SEQS = {"none": 1024, "per_prompt": 256}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if options.child:
        print(json.dumps(measure(options)))
        return
    found = {seeds: _in_child(seeds, options) for seeds in options.seeds}
    print(json.dumps(found) if options.json else report(found))


def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Return tokens per second of every variant, one number per repeat."""
    seeds = options.child
    quiet()
    from rollout.engines.vllm import VLLMEngine

    model = options.model or str(data("models/stories260k"))
    engine = VLLMEngine(model, dtype="float32", max_num_seqs=_SEQS[seeds])
    setting = Setting(encoded_prompts(model, options), options, per_prompt=seeds == "per_prompt")
    # both use the same LLM object, so that only the code around it differs
    ways: dict[str, Draw] = {
        "bare, no text": lambda seed: setting.bare(engine._llm, seed, text="none"),
        "bare, its own text": lambda seed: setting.bare(engine._llm, seed, text="vllm"),
        "bare, decoded once": lambda seed: setting.bare(engine._llm, seed, text="once"),
        "engine": lambda seed: setting.engine(engine, seed),
    }
    executor, pool = (None, None) if options.no_pool else _pool(model, _SEQS[seeds])
    if pool is not None:
        ways["Ray pool"] = lambda seed: setting.engine(pool, seed)
    try:
        return _turn_about(ways, options.repeats)
    finally:
        if executor is not None:
            executor.close()


def _turn_about(ways: dict[str, Draw], repeats: int) -> dict[str, list[float]]:
    for draw in ways.values():
        draw(0)  # warms up
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(1, repeats + 1):
        order = list(ways) if repeat % 2 else list(ways)[::-1]
        for name in order:
            start = time.monotonic()
            tokens = ways[name](repeat)
            speeds[name].append(tokens / (time.monotonic() - start))
    return speeds


@dataclass(frozen=True)
class Setting:
    """Sampling settings, for the bare engine and for the toolkit."""

    prompts: list[Any]
    options: argparse.Namespace
    per_prompt: bool

    def engine(self, engine: Any, seed: int) -> int:
        from rollout.types import Sampling

        sampling = Sampling(
            k=self.options.k,
            max_new_tokens=self.options.new_tokens,
            seed_per_prompt=self.per_prompt,
        )
        drawn = engine.generate(self.prompts, sampling, seed)
        # the worker group yields lists of groups
        parcels = (item if isinstance(item, list) else [item] for item in drawn)
        groups = (group for parcel in parcels for group in parcel)
        return sum(len(one.token_ids) for group in groups for one in group.completions)

    def bare(self, llm: Any, seed: int, text: str) -> int:
        """Draw with bare vLLM and return the number of tokens.

        `text` is how responses are decoded: "none", "vllm" (vLLM's default, while it draws) or
        "once" (batch_decode at the end).
        """
        import torch
        from vllm import SamplingParams

        from rollout.seeds import derive_seed

        torch.manual_seed(seed)
        params = [
            SamplingParams(
                n=self.options.k,
                temperature=1.0,
                max_tokens=self.options.new_tokens,
                seed=derive_seed(seed, prompt.id) if self.per_prompt else None,
                detokenize=text == "vllm",
            )
            for prompt in self.prompts
        ]
        inputs = [{"prompt_token_ids": list(prompt.token_ids)} for prompt in self.prompts]
        outputs = llm.generate(inputs, params, use_tqdm=False)
        ids = [list(one.token_ids) for output in outputs for one in output.outputs]
        if text == "once":
            llm.get_tokenizer().batch_decode(ids, skip_special_tokens=True)
        return sum(map(len, ids))


def report(found: dict[str, dict[str, list[float]]]) -> str:
    rows = []
    for seeds, speeds in found.items():
        own, once = speeds["bare, its own text"], speeds["bare, decoded once"]
        for name, values in speeds.items():
            to_own = [a / b for a, b in zip(values, own, strict=True)]
            to_once = [a / b for a, b in zip(values, once, strict=True)]
            rows.append([seeds, name, f"{median(values):.0f}", spread(to_own), spread(to_once)])
    header = ("seeds", "way", "tokens/s", "to bare, its own text", "to bare, decoded once")
    return table(header, rows) + "\nrequired: engine and pool at least 0.9 of bare"


def encoded_prompts(model: str, options: argparse.Namespace) -> list[Any]:
    from transformers import AutoTokenizer

    from rollout.text.templates import encode_prompts
    from rollout.types import Prompt

    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        job = Job(folder=folder)
        save(job)
        texts = read_prompts(job, "prompts")[: options.prompts]
    prompts = [Prompt(f"story-{number}", text) for number, text in enumerate(texts)]
    tokenizer = AutoTokenizer.from_pretrained(model)
    return encode_prompts(prompts, tokenizer, max_model_len=512, max_new_tokens=options.new_tokens)


def _pool(model: str, max_num_seqs: int) -> tuple[Any, Any]:
    import os
    from functools import partial

    from raft.workers.executors import Resources
    from raft.workers.ray_executor import RayExecutor
    from raft.workers.rollout import Policy, RolloutWorkers
    from rollout.engines.base import build_engine

    executor = RayExecutor("local")
    engine = partial(build_engine, engine="vllm", dtype="float32", max_num_seqs=max_num_seqs)
    threads = len(os.sched_getaffinity(0))
    pool = RolloutWorkers(executor, (Resources(threads=threads),), engine, Policy(model, 0))
    return executor, pool


def _in_child(seeds: str, options: argparse.Namespace) -> dict[str, list[float]]:
    own = ["--child", seeds, *(["--no-pool"] if options.no_pool else [])]
    for name in ("prompts", "k", "new_tokens", "repeats"):
        own += ["--" + name.replace("_", "-"), str(getattr(options, name))]
    if options.model:
        own += ["--model", options.model]
    print(f"seeds: {seeds}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        log = Path(folder) / "log.txt"
        run_module("experiments.bench.generation", own, log)
        lines = log.read_text().splitlines()
    return json.loads(next(line for line in reversed(lines) if line.startswith('{"bare')))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.generation", description=__doc__
    )
    parser.add_argument("--model", help="default: $RAFT_DATA/models/stories260k")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seeds", nargs="+", choices=list(_SEQS), default=list(_SEQS))
    parser.add_argument("--no-pool", action="store_true", help="leave the Ray pool out")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=list(_SEQS), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
