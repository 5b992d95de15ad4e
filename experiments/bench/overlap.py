"""What `overlap: 1` gains where drawing and training have devices of their own: a core each, here.

Each way is a run on a local Ray cluster whose engine is pinned to one core and whose trainer to
another; they take turns, and medians over iterations are compared. The first iterations and the
last, in which nothing overlaps, and evaluations do not count. The best there can be is the longer
of the two stages over their sum.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import raft.assemble
from experiments.bench.job import quiet
from experiments.bench.table import table
from experiments.data import data
from raft import load_config, run
from raft.runs.metrics import read_numbers
from raft.updates.trainer import build_trainer

_CONFIG = Path(__file__).parents[2] / "configs" / "stories_cpu.yaml"


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    quiet()
    _pin(*sorted(os.sched_getaffinity(0))[:2])
    found: dict[int, list[dict[str, float]]] = {0: [], 1: []}
    for _ in range(options.repeats):
        for overlap in found:
            with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
                found[overlap] += measure(Path(folder), overlap, options)
    medians = {
        way: {key: statistics.median(row[key] for row in rows) for key in ("iteration", *_STAGES)}
        for way, rows in found.items()
    }
    print(json.dumps(medians) if options.json else report(medians))


_STAGES = ("generate", "score", "train")


def measure(folder: Path, overlap: int, options: argparse.Namespace) -> list[dict[str, float]]:
    """Return, for each iteration that counts, its seconds and those of its stages."""
    values = {
        "run_dir": folder / "run",
        "overlap": overlap,
        "iterations": options.iterations,
        "policy.model": data("models/stories260k"),
        "policy.engine": options.engine,
        "prompts.per_iteration": options.prompts,
        "sampling.k": options.k,
        "train.update": options.update,
        "train.epochs": options.epochs,
        "eval.every": options.iterations,
        "eval.prompts": 8,
        "monitor.kl": "false",
        "cluster.address": "local",
    }
    run(load_config(_CONFIG, [f"{key}={value}" for key, value in values.items()]))
    rows = [row for row in read_numbers(folder / "run") if 2 < row.iteration < options.iterations]
    return [{key: row[f"time/{key}"] for key in ("iteration", *_STAGES)} for row in rows]


def report(medians: dict[int, dict[str, float]]) -> str:
    """Format the medians. In turn the stages add up; overlapped, `train` is the time of both."""
    turns, both = medians[0], medians[1]
    drawing, training = turns["generate"] + turns["score"], turns["train"]
    rows = [
        ["in turn", turns["iteration"], drawing, training, 1.0],
        [
            "overlapped",
            both["iteration"],
            None,
            both["train"],
            both["iteration"] / turns["iteration"],
        ],
        ["the longer of both", None, None, None, max(drawing, training) / (drawing + training)],
    ]
    return table(["", "iteration (s)", "draw and score", "train", "ratio"], rows)


def _pin(engine_core: int, trainer_core: int) -> None:
    build_engine = raft.assemble._engine

    def engine(*arguments: Any) -> Callable[..., Any]:
        return partial(on_core, engine_core, build_engine(*arguments))

    raft.assemble._engine = engine
    raft.assemble.build_trainer = partial(on_core, trainer_core, build_trainer)


def on_core(core: int, build: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Pin this process to one core and one thread of torch, and return what `build` returns."""
    import torch

    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    return build(*arguments, **(named | {"threads": 1} if "threads" in named else named))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.overlap", description=__doc__
    )
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--update", default="reinforce")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--engine", default="vllm")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
