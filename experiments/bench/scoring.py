"""Scoring N HH-RLHF conversations: `load_reward` against a model card's loop and padded batches.

The model is random, of 4 layers and 3 million parameters: speed needs no training. The card's loop
is that of Ray2333/reward-model-Mistral-7B-instruct-Unified-Feedback: one text at a time, padded to
the model's maximum. It and the slower settings score a sample, evenly spread, since their time per
conversation does not depend on the others. Conversations are the two sides of pairs, as
`raft score` meets them; `--one-side` takes the chosen ones alone, which share nothing.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from experiments.bench.job import quiet
from experiments.bench.table import spread, table
from experiments.data import data

Score = Callable[[Sequence[str]], list[float]]
OWN, CARD = "toolkit", "card's loop, padded to the maximum"

_HH = ("helpful-base", "harmless-base")
_TOKENIZER = "data/tokenizers/tinystories-bpe-4K/tokenizer.json.gz"
_BATCHES = (2, 4, 8, 16, 32)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    quiet()
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        found = measure(Path(folder), options)
    print(json.dumps(found) if options.json else report(found))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return conversations per second of every variant, and the largest difference of scores."""
    import torch

    torch.set_num_threads(options.threads)
    build_classifier(folder, options.max_length)
    texts = hh_texts(options.conversations, one_side=options.one_side)
    step = max(1, len(texts) // options.sample)
    ways = _ways(folder, options.max_length)
    inputs = {name: texts if name == OWN else texts[::step] for name in ways}
    scores = {name: score(inputs[name]) for name, score in ways.items()}
    reference = scores[CARD]
    worst = {
        name: _distance(found[::step] if name == OWN else found, reference)
        for name, found in scores.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(options.repeats):
        for name in list(ways) if repeat % 2 == 0 else list(ways)[::-1]:
            start = time.monotonic()
            ways[name](inputs[name])
            rates[name].append(len(inputs[name]) / (time.monotonic() - start))
    return {
        "conversations": len(texts),
        "sample": len(texts[::step]),
        "per_second": rates,
        "largest_difference": worst,
    }


def build_classifier(folder: Path, max_length: int, layers: int = 4) -> None:
    """Write a Llama reward model with random weights, and its tokenizer."""
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
        num_hidden_layers=layers,
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


def hh_texts(count: int, one_side: bool = False) -> list[str]:
    sides = ("chosen",) if one_side else ("chosen", "rejected")
    texts = (row[side] for row in _hh_rows() for side in sides)
    return list(islice(texts, count))


def _hh_rows() -> Iterator[dict[str, str]]:
    for name in _HH:
        with gzip.open(data(f"data/hh-rlhf/dev/{name}.jsonl.gz"), "rt", encoding="utf-8") as file:
            yield from map(json.loads, file)


def _ways(folder: Path, max_length: int) -> dict[str, Score]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from rewards import load_reward

    reward = load_reward(folder, format="plain", bos="none", max_length=max_length)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.truncation_side, tokenizer.padding_side = "left", "right"
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    model.eval()

    def padded(texts: Sequence[str], padding: str | bool) -> list[float]:
        batch = tokenizer(
            list(texts),
            padding=padding,
            truncation=True,
            max_length=max_length,
            return_tensors="pt",
        )
        ids, mask = batch["input_ids"], batch["attention_mask"]
        with torch.inference_mode():
            return model(input_ids=ids, attention_mask=mask).logits[:, 0].tolist()

    def batches(texts: Sequence[str], size: int) -> list[float]:
        chunks = (texts[start : start + size] for start in range(0, len(texts), size))
        return [score for chunk in chunks for score in padded(chunk, True)]

    def by_length(texts: Sequence[str], size: int) -> list[float]:
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        scores = dict(zip(order, batches([texts[i] for i in order], size), strict=True))
        return [scores[index] for index in range(len(texts))]

    ways: dict[str, Score] = {
        OWN: lambda texts: reward.score(texts).tolist(),
        CARD: lambda texts: [score for text in texts for score in padded([text], "max_length")],
        "one by one, unpadded": lambda texts: batches(texts, 1),
    }
    for size in _BATCHES:
        ways[f"batches of {size}"] = lambda texts, size=size: batches(texts, size)
        ways[f"batches of {size}, by length"] = lambda texts, size=size: by_length(texts, size)
    return ways


def _distance(scores: list[float], reference: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(scores, reference, strict=True))


def report(found: dict[str, Any]) -> str:
    own = found["per_second"][OWN]
    rows = []
    for name, rates in found["per_second"].items():
        ratios = [mine / other for other, mine in zip(rates, own, strict=True)]
        apart = f"{found['largest_difference'][name]:.1e}"
        rows.append([name, f"{median(rates):.1f}", spread(ratios), apart])
    header = ("way", "conversations/s", "the toolkit's rate over it", "scores apart by")
    return "\n".join(
        [
            f"{found['conversations']} conversations, {found['sample']} of them in the other ways",
            table(header, rows),
            "wanted: card's loop at least 10, the best padded batches at least 2",
        ]
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.scoring", description=__doc__
    )
    parser.add_argument("--conversations", type=int, default=4000)
    parser.add_argument("--sample", type=int, default=256, help="conversations in the other ways")
    parser.add_argument("--one-side", action="store_true", help="chosen texts only")
    parser.add_argument("--max-length", type=int, default=2048, help="tokens; longer ones are cut")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
