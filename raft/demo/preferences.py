"""Noisy preferences: two responses of the policy per prompt, ordered by someone who errs.

The labeller follows the gold reward the Bradley-Terry way, close calls being nearly coin tosses,
and at times clicks the wrong button. Knows no reward model.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["label_pairs", "preference_pairs", "sample_responses"]

Gold = Callable[[list[str], list[str]], Sequence[float | None]]


def preference_pairs(
    policy_dir: str | Path,
    prompts: Sequence[str],
    gold: Gold,
    seed: int,
    *,
    sharpness: float = 2.0,
    flipped: float = 0.1,
    max_new_tokens: int = 40,
    batch_size: int = 800,
) -> list[dict[str, str]]:
    """Sample two responses per prompt and label them: rows of {"prompt", "chosen", "rejected"}."""
    responses = sample_responses(
        policy_dir, prompts, 2, seed, max_new_tokens=max_new_tokens, batch_size=batch_size
    )
    return label_pairs(prompts, responses, gold, seed, sharpness=sharpness, flipped=flipped)


def label_pairs(
    prompts: Sequence[str],
    responses: Sequence[Sequence[str]],
    gold: Gold,
    seed: int,
    *,
    sharpness: float = 2.0,
    flipped: float = 0.1,
) -> list[dict[str, str]]:
    """One row per prompt whose two responses differ.

    The better one is chosen with probability σ(`sharpness` · difference in gold); then a share of
    `flipped` of the rows is turned round.
    """
    rng = random.Random(f"{seed}/labels")
    rows = []
    for prompt, (first, second) in zip(prompts, responses, strict=True):
        gold_first, gold_second = gold([prompt, prompt], [first, second])
        if first == second or gold_first is None or gold_second is None:
            continue
        # σ(x) as a tanh, which cannot overflow
        gain = sharpness * (gold_first - gold_second)
        prefers_first = rng.random() < (1 + math.tanh(gain / 2)) / 2
        if prefers_first == (rng.random() < flipped):
            first, second = second, first
        rows.append({"prompt": prompt, "chosen": first, "rejected": second})
    return rows


def sample_responses(
    policy_dir: str | Path,
    prompts: Sequence[str],
    k: int,
    seed: int,
    *,
    max_new_tokens: int = 40,
    batch_size: int = 800,
) -> list[list[str]]:
    """`k` responses per prompt at temperature 1, in the order of the prompts."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(policy_dir, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(policy_dir, dtype=torch.float32).eval()
    responses: list[list[str]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for start in range(0, len(prompts), batch_size // k):
            batch = tokenizer(
                list(prompts[start : start + batch_size // k]),
                return_tensors="pt",
                padding=True,
                return_token_type_ids=False,
            )
            drawn = model.generate(
                **batch,
                do_sample=True,
                top_k=0,
                num_return_sequences=k,
                max_new_tokens=max_new_tokens,
            )
            new = drawn[:, batch["input_ids"].shape[1] :]
            decoded = tokenizer.batch_decode(new, skip_special_tokens=True)
            responses += [decoded[i : i + k] for i in range(0, len(decoded), k)]
    return responses
