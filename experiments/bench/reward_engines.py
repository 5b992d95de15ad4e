"""One classifier on three engines: packed rows, vLLM pooling, padded batches.

Every measurement is a fresh process, since vLLM changes the threads of its own; ways take turns.
Start-up is all from the first import to an engine that has scored once; CPU seconds are those of
scoring, over all threads: with one thread they hold on a busy machine too. Conversations and the
random model, of 4 layers and 3 million parameters, are those of `scoring`.
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

Score = Callable[[Sequence[str]], list[float]]
PACKED, POOLING, PADDED = "transformers, packed", "vLLM pooling", "padded batches of 16"
WAYS = (PACKED, POOLING, PADDED)
_WARM_UP = ["Human: hello\n\nAssistant: hello"]
_BATCH = 16


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    quiet()
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        found = measure(Path(folder), options)
    print(json.dumps(found) if options.json else report(found, options.extrapolate))


@dataclass(frozen=True)
class Run:
    """One measurement: seconds of start-up, seconds and CPU seconds of scoring, and the scores."""

    start: float
    scoring: float
    cpu: float
    scores: list[float]


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return times per variant and repeat, and the largest difference of scores."""
    build_classifier(folder, options.max_length)
    found: dict[str, list[Run]] = {way: [] for way in WAYS}
    for repeat in range(options.repeats):
        for way in WAYS if repeat % 2 == 0 else WAYS[::-1]:
            found[way].append(_in_a_process(way, str(folder), options))
    reference = found[PACKED][0].scores
    return {
        "conversations": len(reference),
        **{
            name: {way: [getattr(run, name) for run in runs] for way, runs in found.items()}
            for name in ("start", "scoring", "cpu")
        },
        "largest_difference": {
            way: max(abs(a - b) for a, b in zip(runs[0].scores, reference, strict=True))
            for way, runs in found.items()
        },
    }


def run(way: str, folder: str, options: argparse.Namespace) -> Run:
    """Measure one way, in a process that has not imported torch or vLLM yet."""
    # the only setting of threads that vLLM uses as well
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    quiet()
    texts = hh_texts(options.conversations, one_side=options.one_side)
    begin = time.monotonic()
    score = _padded(folder, options) if way == PADDED else _toolkit(way, folder, options)
    score(_WARM_UP)
    ready, cpu = time.monotonic(), time.process_time()
    scores = score(texts)
    return Run(ready - begin, time.monotonic() - ready, time.process_time() - cpu, scores)


def _in_a_process(way: str, folder: str, options: argparse.Namespace) -> Run:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(run, way, folder, options).result()


def _toolkit(way: str, folder: str, options: argparse.Namespace) -> Score:
    from rewards import load_reward

    engine = "vllm" if way == POOLING else "transformers"
    settings: dict[str, Any] = {"format": "plain", "bos": "none", "max_length": options.max_length}
    reward = load_reward(folder, engine=engine, **settings)
    return lambda texts: reward.score(texts).tolist()


def _padded(folder: str, options: argparse.Namespace) -> Score:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.truncation_side, tokenizer.padding_side = "left", "right"
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    cut = {"truncation": True, "max_length": options.max_length, "return_tensors": "pt"}

    @torch.inference_mode()
    def score(texts: Sequence[str]) -> list[float]:
        chunks = (list(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH))
        batches = (tokenizer(chunk, padding=True, **cut) for chunk in chunks)
        return [
            score
            for batch in batches
            for score in model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).logits[:, 0].tolist()
        ]  # fmt: skip

    return score


def report(found: dict[str, Any], more: int) -> str:
    count, own = found["conversations"], found["cpu"][PACKED]
    rows = []
    for way, cpu in found["cpu"].items():
        start, scoring = median(found["start"][way]), median(found["scoring"][way])
        rows.append(
            [
                way,
                spread(found["start"][way]),
                spread(found["scoring"][way]),
                f"{start + scoring:.1f}",
                f"{start + scoring * more / count:.1f}",
                spread([other / mine for other, mine in zip(cpu, own, strict=True)]),
                f"{found['largest_difference'][way]:.1e}",
            ]
        )
    header = (
        "way", "start-up s", f"scoring {count} s", "both s", f"both of {more} s (extrapolated)",
        "CPU seconds against packed", "scores apart by",
    )  # fmt: skip
    return table(header, rows)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.reward_engines", description=__doc__
    )
    parser.add_argument("--conversations", type=int, default=500)
    parser.add_argument("--extrapolate", type=int, default=4000, help="conversations")
    parser.add_argument("--one-side", action="store_true", help="chosen texts only, not pairs")
    parser.add_argument("--max-length", type=int, default=512, help="tokens; longer ones are cut")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
