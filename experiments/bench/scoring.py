"""Scoring N HH-RLHF conversations: `load_reward`, a model card's loop, padded batches.

The model is random, of 4 layers and 3 million parameters: speed needs no training. The card's loop
is a transformers pipeline, one text at a time, function_to_apply="none".
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from experiments.bench.job import data, quiet
from experiments.bench.table import spread, table

Score = Callable[[], list[float]]

_HH = "data/hh-rlhf/dev/helpful-base.jsonl.gz"
_TOKENIZER = "data/tokenizers/tinystories-bpe-4K/tokenizer.json.gz"
_BATCH = 16


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    quiet()
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        found = measure(Path(folder), options)
    print(json.dumps(found) if options.json else report(found))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per repeat of every way, and how far their scores lie apart."""
    import torch

    torch.set_num_threads(options.threads)
    build_classifier(folder, options.max_length)
    ways = _ways(folder, hh_texts(options.conversations), options.max_length)
    reference = ways["card's loop"]()
    worst = {name: _distance(score(), reference) for name, score in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(options.repeats):
        for name in list(ways) if repeat % 2 == 0 else list(ways)[::-1]:
            start = time.monotonic()
            ways[name]()
            seconds[name].append(time.monotonic() - start)
    return {"seconds": seconds, "largest_difference": worst}


def build_classifier(folder: Path, max_length: int) -> None:
    """A Llama reward model with random weights, and its tokenizer."""
    import torch
    from tokenizers import Tokenizer
    from transformers import (
        AutoModelForSequenceClassification,
        LlamaConfig,
        PreTrainedTokenizerFast,
    )

    with gzip.open(data(_TOKENIZER), "rt", encoding="utf-8") as file:
        backend = Tokenizer.from_str(file.read())
    backend.no_padding()
    backend.no_truncation()
    size = backend.get_vocab_size()
    config = LlamaConfig(
        vocab_size=size + 1,
        hidden_size=192,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=6,
        max_position_embeddings=max_length,
        pad_token_id=size,
    )
    config.num_labels = 1
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<bench-pad>")
    tokenizer.save_pretrained(folder)


def hh_texts(count: int) -> list[str]:
    with gzip.open(data(_HH), "rt", encoding="utf-8") as file:
        return [json.loads(line)["chosen"] for line in islice(file, count)]


def _ways(folder: Path, texts: list[str], max_length: int) -> dict[str, Score]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    from rewards import load_reward

    reward = load_reward(folder, format="plain", bos="none", max_length=max_length)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.truncation_side, tokenizer.padding_side = "left", "right"
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    pipe: Any = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    cut = {"truncation": True, "max_length": max_length}

    def card() -> list[float]:
        return [pipe(text, function_to_apply="none", **cut)[0]["score"] for text in texts]

    @torch.inference_mode()
    def batches() -> list[float]:
        found: list[float] = []
        for start in range(0, len(texts), _BATCH):
            batch = tokenizer(
                texts[start : start + _BATCH], padding=True, return_tensors="pt", **cut
            )
            ids, mask = batch["input_ids"], batch["attention_mask"]
            found += model(input_ids=ids, attention_mask=mask).logits[:, 0].tolist()
        return found

    return {
        "toolkit": lambda: reward.score(texts).tolist(),
        "card's loop": card,
        "padded batches": batches,
    }


def _distance(scores: list[float], reference: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(scores, reference, strict=True))


def report(found: dict[str, Any]) -> str:
    own = found["seconds"]["toolkit"]
    rows = []
    for name, seconds in found["seconds"].items():
        ratios = [other / mine for other, mine in zip(seconds, own, strict=True)]
        apart = f"{found['largest_difference'][name]:.1e}"
        rows.append([name, f"{median(seconds):.2f}", spread(ratios), apart])
    header = ("way", "seconds", "time against the toolkit's", "scores apart by")
    return table(header, rows) + "\nwanted: card's loop at least 10, padded batches at least 2"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.scoring", description=__doc__
    )
    parser.add_argument("--conversations", type=int, default=512)
    parser.add_argument("--max-length", type=int, default=512, help="tokens; longer ones are cut")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
