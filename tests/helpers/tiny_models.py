"""Tiny random language models with a real tokenizer, in the format of the hub.

Heads of 32, which is the least that vLLM's CPU kernels take; two layers; a few hundred tokens.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rollout.types import Prompt

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
BOS_ID, EOS_ID, PAD_ID = 0, 1, 2
CONTEXT = 320  # two cache blocks of vLLM's on a CPU, and a half

_CORPUS = [
    "Once upon a time there was a little girl who had a red ball.",
    "The cat sat on the mat and the dog ran to the big tree in the park.",
    "He said: I am happy! She said: I am sad. They went home and ate a cake.",
    "One day a bird flew over the sea, and the sun was warm and the wind was soft.",
]


def tokenizer(*, pad: str | None = PAD) -> Any:
    """A byte-level BPE of 320 tokens that begins a text with BOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS * 4, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, BOS_ID)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=BOS, eos_token=EOS, pad_token=pad
    )


def config(family: str, **changes: Any) -> Any:
    """`llama` (untied, grouped heads), `gpt2` (tied, dropout) or `gpt_neo` (local attention)."""
    from transformers import GPT2Config, GPTNeoConfig, LlamaConfig

    common = {
        "vocab_size": 320, "bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID,
    }  # fmt: skip
    if family == "llama":
        own = {
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
            "max_position_embeddings": CONTEXT, "tie_word_embeddings": False,
        }  # fmt: skip
        return LlamaConfig(**{**common, **own, **changes})
    if family == "gpt2":
        own = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT}
        return GPT2Config(**{**common, **own, "tie_word_embeddings": True, **changes})
    own = {
        "hidden_size": 64, "num_layers": 2, "num_heads": 2, "window_size": 8,
        "attention_types": [[["global", "local"], 1]], "max_position_embeddings": CONTEXT,
    }  # fmt: skip
    return GPTNeoConfig(**{**common, **own, **changes})


def model(family: str, *, seed: int = 0, **changes: Any) -> Any:
    """Random weights, five times as large as usual: every context has its own distribution."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(config(family, **changes)).float().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    return made


def checkpoint(
    folder: Path, family: str, *, seed: int = 0, pad: str | None = PAD, **changes: Any
) -> Path:
    """A complete model folder."""
    model(family, seed=seed, **changes).save_pretrained(folder)
    tokenizer(pad=pad).save_pretrained(folder)
    return folder


def checkpoints(root: Path) -> dict[str, Path]:
    """A folder of each family, by its name."""
    return {name: checkpoint(root / name, name) for name in ("llama", "gpt2", "gpt_neo")}


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Models this small are slowed down by a second thread, tenfold where cores are shared."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fixed_logits(folder: Path, logits: Sequence[float]) -> Path:
    """A model whose next-token logits are the same whatever came before.

    The last norm's weight is zero and its bias one, so the tied head sees a constant: the sum of
    each token's embedding, which is spread evenly over the embedding.
    """
    import torch

    made = model("gpt2", vocab_size=320)
    with torch.no_grad():
        made.transformer.ln_f.weight.zero_()
        made.transformer.ln_f.bias.fill_(1.0)
        values = torch.full((320,), -math.inf)
        values[: len(logits)] = torch.tensor(list(logits))
        # a finite floor: −1e4 is impossible at any temperature used
        made.lm_head.weight.copy_(values.clamp(min=-1e4)[:, None].expand(-1, 64) / 64)
    made.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def prompts(made: Any, texts: Sequence[str]) -> list[Prompt]:
    """Encoded prompts with ids p0, p1, …"""
    return [
        Prompt(f"p{number}", text, token_ids=tuple(made(text)["input_ids"]))
        for number, text in enumerate(texts)
    ]


def log_probs(folder: Path, ids: Sequence[int]) -> list[float]:
    """Log-probabilities by hand: one forward pass over one row, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = loaded(torch.tensor([list(ids)])).logits[0]
    return [float(logits[t, token] - logits[t].logsumexp(-1)) for t, token in enumerate(ids[1:])]


def greedy(folder: Path, ids: Sequence[int], length: int) -> list[int]:
    """The greedy continuation by hand: no cache, no padding, no `generate`; EOS ends it."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    row = list(ids)
    with torch.no_grad():
        for _ in range(length):
            row.append(int(loaded(torch.tensor([row])).logits[0, -1].argmax()))
            if row[-1] == EOS_ID:
                break
    return row[len(ids) :]
