"""A knockout of P prompts x K responses: `JudgeReward` against comparing pair by pair.

Pair by pair is the loop of the card of RLHFlow/pair-preference-model-LLaMA3-8B: one forward pass
per order and comparison, one after the other, read at the last position. The model is random, of 4
layers and 3 million parameters; prompts are HH-RLHF's, and so are the responses, of other prompts.
Both judge the same comparisons of the first round, and their probabilities are compared.
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

import numpy as np

from experiments.bench.job import quiet
from experiments.bench.table import spread, table
from experiments.data import data

_HH = "data/hh-rlhf/dev/helpful-base.jsonl.gz"
_TOKENIZER = "data/tokenizers/tinystories-bpe-4K/tokenizer.json.gz"
_HEADERS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>"
    "\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_MAX_LENGTH = 2048


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    quiet()
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        found = measure(Path(folder), options)
    print(json.dumps(found) if options.json else report(found))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return seconds per repeat for one knockout of all prompts, for both variants."""
    import torch

    torch.set_num_threads(options.threads)
    build_judge(folder)
    groups = hh_groups(options.prompts, options.k)
    reward, judge, single = _ways(folder)
    first_round = _first_round(groups)
    apart = float(np.abs(judge.compare(first_round) - single(first_round)).max())
    judge.forward_passes = 0
    reward.score_groups(groups)
    passes = judge.forward_passes
    seconds: dict[str, list[float]] = {"toolkit": [], "pair by pair": []}
    ways: dict[str, Callable[[], object]] = {
        "toolkit": lambda: reward.score_groups(groups),
        "pair by pair": lambda: _knockout_pair_by_pair(groups, single),
    }
    for repeat in range(options.repeats):
        for name in list(ways) if repeat % 2 == 0 else list(ways)[::-1]:
            start = time.monotonic()
            ways[name]()
            seconds[name].append(time.monotonic() - start)
    return {"forward_passes": passes, "seconds": seconds, "largest_difference": apart}


def build_judge(folder: Path) -> None:
    """Write a Llama language model with random weights, Llama 3's template and a tokenizer."""
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    with gzip.open(data(_TOKENIZER), "rt", encoding="utf-8") as file:
        backend = Tokenizer.from_str(file.read())
    backend.no_padding()
    backend.no_truncation()
    backend.add_special_tokens(list(_HEADERS))
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=_HEADERS[0])
    tokenizer.chat_template = _TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=6,
        max_position_embeddings=_MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
    )
    model = LlamaForCausalLM(config)
    torch.nn.init.normal_(model.lm_head.weight)  # for log-odds that differ visibly
    model.save_pretrained(folder)


def hh_groups(prompts: int, k: int) -> list[Any]:
    """Return real prompts, each with K real responses of other prompts."""
    from rollout.types import Completion, Group, Prompt

    with gzip.open(data(_HH), "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["chosen"] for line in islice(file, prompts * (k + 1))]
    parts = [text.rpartition("\n\nAssistant:") for text in texts]
    answers = iter([answer.strip() for _, _, answer in parts])
    return [
        Group(
            Prompt(f"p{number}", parts[number][0].removeprefix("\n\nHuman:").strip()),
            tuple(Completion(next(answers), (), "stop") for _ in range(k)),
            policy_version=0,
        )
        for number in range(prompts)
    ]


def _ways(folder: Path) -> tuple[Any, Any, Callable[[Sequence[Any]], np.ndarray]]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rewards.judges.load import load_judge
    from rewards.judges.prompt import PairPrompt
    from rewards.judges.reward import JudgeReward
    from rewards.tournament.verdicts import Verdicts

    judge = load_judge(folder, kind="pairwise")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompt = PairPrompt(tokenizer, len(tokenizer), _MAX_LENGTH)
    label_a, label_b = prompt.label_ids

    @torch.inference_mode()
    def log_odds(row: list[int]) -> float:
        logits = model(input_ids=torch.tensor([row])).logits[0, -1]
        return float(logits[label_a] - logits[label_b])

    def single(comparisons: Sequence[Any]) -> np.ndarray:
        """Compare one pair after the other, in both orders."""
        both = (prompt.encode_both([comparison], ["one"]) for comparison in comparisons)
        odds = [[log_odds(row) for row in rows] for rows in both]
        return Verdicts.from_log_odds(*np.array(odds).T).probability_N

    return JudgeReward(judge), judge, single


def _first_round(groups: Sequence[Any]) -> list[Any]:
    from rewards.types import Comparison
    from rollout.types import judged_sides

    return [
        Comparison(judged_sides(group)[0], a.text, b.text)
        for group in groups
        for a, b in _pairs(group.completions)
    ]


def _pairs(items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(items[::2], items[1::2], strict=False)


def _knockout_pair_by_pair(groups: Sequence[Any], single: Any) -> list[Any]:
    """Play each prompt's bracket comparison by comparison, as a model card's user would."""
    from rewards.types import Comparison
    from rollout.types import judged_sides

    winners = []
    for group in groups:
        turns, left = judged_sides(group)[0], list(group.completions)
        while len(left) > 1:
            odd = left[len(left) // 2 * 2 :]
            left = [
                a if single([Comparison(turns, a.text, b.text)])[0] >= 0.5 else b
                for a, b in _pairs(left)
            ] + odd
        winners.append(left[0])
    return winners


def report(found: dict[str, Any]) -> str:
    own = found["seconds"]["toolkit"]
    rows = [
        [name, f"{median(seconds):.2f}", spread([s / o for s, o in zip(seconds, own, strict=True)])]
        for name, seconds in found["seconds"].items()
    ]
    return "\n".join(
        [
            table(("way", "seconds", "time over the toolkit's"), rows),
            f"forward passes of the toolkit: {found['forward_passes']}; probabilities apart by "
            f"{found['largest_difference']:.1e} at most",
            "wanted: pair by pair at least 3",
        ]
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.judge", description=__doc__)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
