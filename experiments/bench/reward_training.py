"""Training a reward model: the toolkit's trainer against TRL's RewardTrainer on the same pairs.

Real tokens a second: those of both sides of every pair, no padding, prompts counted on each side
although the toolkit computes them once. Pairs are of HH-RLHF, of very unequal length; the model is
the classifier of `scoring`, of 4 layers and 3 million parameters. Both take steps of the same
number of pairs in float32 with AdamW and without recomputation; TRL has its default of 8 pairs a
device, and as many batches a step as that takes. Every measurement is a fresh process that trains
on one step's pairs first; ways take turns.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from experiments.bench.job import quiet
from experiments.bench.scoring import build_classifier, hh_texts
from experiments.bench.table import spread, table

TOOLKIT, PADDED, TRL = "toolkit", "toolkit, padded rows", "TRL RewardTrainer"
WAYS = (TOOLKIT, PADDED, TRL)
_TRL_BATCH = 8  # TRL's default

Ids = tuple[list[int], list[int]]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    quiet()
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        build_classifier(Path(folder), options.max_length)
        found = measure(folder, options)
    print(json.dumps(found) if options.json else report(found))


@dataclass(frozen=True)
class Run:
    """One measurement: wall seconds and CPU seconds of one epoch, and tokens without padding."""

    seconds: float
    cpu: float
    tokens: int


def measure(folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return a value per repeat for each variant."""
    found: dict[str, list[Run]] = {way: [] for way in WAYS}
    for repeat in range(options.repeats):
        for way in WAYS if repeat % 2 == 0 else WAYS[::-1]:
            found[way].append(_in_a_process(way, folder, options))
    return {
        "pairs": options.pairs,
        "tokens": found[TOOLKIT][0].tokens,
        "tokens_per_second": {w: [r.tokens / r.seconds for r in runs] for w, runs in found.items()},
        "cpu_seconds": {way: [run.cpu for run in runs] for way, runs in found.items()},
    }


def run(way: str, folder: str, options: argparse.Namespace) -> Run:
    """Measure one way, in a process that has not imported torch yet."""
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    quiet()
    pairs = _pairs(folder, options)
    train: Callable[[Sequence[Ids]], None] = (
        _trl(folder, options) if way == TRL else _toolkit(folder, way, options)
    )
    train(pairs[: options.batch_size])
    begin, cpu = time.monotonic(), time.process_time()
    train(pairs)
    tokens = sum(len(chosen) + len(rejected) for chosen, rejected in pairs)
    return Run(time.monotonic() - begin, time.process_time() - cpu, tokens)


def _in_a_process(way: str, folder: str, options: argparse.Namespace) -> Run:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(run, way, folder, options).result()


def _pairs(folder: str, options: argparse.Namespace) -> list[Ids]:
    """Return pairs of encoded conversations; long ones are truncated on the left."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    rows = tokenizer(hh_texts(2 * options.pairs))["input_ids"]
    kept = [row[-options.max_length :] for row in rows]
    return list(zip(kept[::2], kept[1::2], strict=True))


def _toolkit(folder: str, way: str, options: argparse.Namespace) -> Callable[[Sequence[Ids]], None]:
    import numpy as np

    from rewards.training.examples import Example
    from rewards.training.fit import fit
    from rewards.training.losses import PairObjective
    from rewards.training.model import load_trainable, pad_id_of
    from rewards.training.settings import LossSettings, TrainingSettings

    settings = TrainingSettings(
        batch_size=options.batch_size,
        layout="padded" if way == PADDED else None,
        micro_tokens=options.micro_tokens,
    )
    model, tokenizer = load_trainable(folder, "classifier", settings)
    pad = pad_id_of(tokenizer)

    def train(pairs: Sequence[Ids]) -> None:
        examples = [Example(tuple(np.array(ids, dtype=np.int32) for ids in pair)) for pair in pairs]
        with tempfile.TemporaryDirectory(prefix="raft-bench-") as scratch:
            fit(
                model,
                lambda layout: PairObjective(LossSettings(), layout, pad),
                examples,
                [],
                settings,
                pad_id=pad,
                checkpoints=Path(scratch),
                on_metrics=lambda step, values: None,
            )

    return train


def _trl(folder: str, options: argparse.Namespace) -> Callable[[Sequence[Ids]], None]:
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def train(pairs: Sequence[Ids]) -> None:
        rows = [{"chosen_ids": chosen, "rejected_ids": rejected} for chosen, rejected in pairs]
        with tempfile.TemporaryDirectory(prefix="raft-bench-") as scratch:
            RewardTrainer(
                model=model,
                args=RewardConfig(
                    output_dir=scratch,
                    num_train_epochs=1,
                    per_device_train_batch_size=_TRL_BATCH,
                    gradient_accumulation_steps=max(1, options.batch_size // _TRL_BATCH),
                    max_length=None,
                    use_cpu=True,
                    bf16=False,
                    gradient_checkpointing=False,
                    report_to="none",
                    disable_tqdm=True,
                ),
                train_dataset=Dataset.from_list(rows),
                processing_class=tokenizer,
            ).train()

    return train


def report(found: dict[str, Any]) -> str:
    rates, cpu = found["tokens_per_second"], found["cpu_seconds"]
    rows = [
        [
            way,
            spread(rates[way]),
            spread([mine / other for mine, other in zip(rates[way], rates[TRL], strict=True)]),
            spread([other / mine for mine, other in zip(cpu[way], cpu[TRL], strict=True)]),
        ]
        for way in WAYS
    ]
    ratio = median([a / b for a, b in zip(rates[TOOLKIT], rates[TRL], strict=True)])
    header = ("way", "real tokens/s", "against TRL", "by CPU seconds")
    return (
        f"{found['pairs']} pairs, {found['tokens']:,} real tokens\n\n{table(header, rows)}\n\n"
        f"toolkit / TRL: {ratio:.2f} (wanted ≥ 1.3)"
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.reward_training", description=__doc__
    )
    parser.add_argument("--pairs", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=32, help="pairs per optimizer step")
    parser.add_argument("--micro-tokens", type=int, help="per forward pass of the toolkit")
    parser.add_argument("--max-length", type=int, default=1024, help="tokens; longer ones are cut")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
