"""Noisy preferences: two responses of the policy per prompt, labelled by a simulated labeller.

The labeller prefers by the gold reward with the probabilities of the Bradley-Terry model, so that
close pairs are nearly random, and reverses a share of all labels. This module uses no reward model.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["label_pairs", "preference_pairs", "sample_responses"]

_MASK = "attention_mask"
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
    batch_size: int = 400,
) -> list[dict[str, str]]:
    """Sample two responses per prompt and label them: rows {"prompt", "chosen", "rejected"}.

    `sharpness` and `flipped` are as `label_pairs` takes them.
    """
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
    """Return one row {"prompt", "chosen", "rejected"} per prompt whose two responses differ.

    The first response is preferred with probability σ(`sharpness` · its gold − the second's gold),
    the Bradley-Terry model; each label is then reversed with probability `flipped`. A prompt
    without gold scores has no row.
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
    batch_size: int = 400,
) -> list[list[str]]:
    """Draw `k` responses per prompt at temperature 1 and return them in the order of the prompts.

    `batch_size` counts responses that are drawn together.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(policy_dir, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(policy_dir, dtype=torch.float32).eval()
    responses: list[list[str]] = []
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        for start in range(0, len(prompts), batch_size // k):
            some = list(prompts[start : start + batch_size // k])
            batch = tokenizer(some, return_tensors="pt", padding=True)
            ids, mask = (batch[one].repeat_interleave(k, 0) for one in ("input_ids", _MASK))
            drawn = _continue(model, ids, mask, max_new_tokens, tokenizer.eos_token_id)
            decoded = tokenizer.batch_decode(drawn, skip_special_tokens=True)
            responses += [decoded[i : i + k] for i in range(0, len(decoded), k)]
    return responses


def _continue(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, most: int, stop: int
) -> torch.Tensor:
    """Return (rows, most) tokens that continue each row, drawn at temperature 1.

    After a first `stop` a row holds only that token. `generate` of transformers would compute
    finished rows to the end of the batch, which is half of its time here.
    """
    import torch

    new = torch.full((len(ids), most), stop)
    rows, places, cache = torch.arange(len(ids)), (mask.cumsum(1) - 1).clamp(min=0), None
    for step in range(most):
        said = model(
            input_ids=ids, position_ids=places, past_key_values=cache, use_cache=True,
            logits_to_keep=1, **{_MASK: mask},
        )  # fmt: skip
        cache = said.past_key_values
        ids = torch.multinomial(said.logits[:, -1].softmax(-1), 1)
        if step:
            ids[new[rows, step - 1] == stop] = stop
        new[rows, step] = ids[:, 0]
        mask, places = torch.cat([mask, torch.ones_like(ids)], 1), places[:, -1:] + 1
        going = (ids[:, 0] != stop).nonzero()[:, 0]
        if not len(going):
            break
        if len(going) < 0.8 * len(rows):
            rows, ids, mask, places = (one[going] for one in (rows, ids, mask, places))
            cache.batch_select_indices(going)
    return new
