"""Small language models to start from, and pairs to train on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewards.data.pair import Pair
from rollout.types import Message

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }}</s>"
    "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)


def tokenizer(
    texts: Iterable[str], size: int = 1000, *, pad: str | None = PAD, chat: bool = True
) -> Any:
    """A byte-level BPE learned from `texts`, that begins a text with BOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    learned = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[BOS, EOS, *([pad] if pad else [])],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, learned)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, 0)]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=BOS, eos_token=EOS, pad_token=pad
    )
    if chat:
        made.chat_template = CHAT_TEMPLATE
    return made


def language_model(folder: Path, made_tokenizer: Any, *, seed: int = 0, **changes: Any) -> Path:
    """A random Llama: by default two layers of 64, for tests that look at numbers alone."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings: dict[str, Any] = {
        "vocab_size": len(made_tokenizer), "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 1,
        "pad_token_id": made_tokenizer.pad_token_id, **changes,
    }  # fmt: skip
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**settings)).save_pretrained(folder)
    made_tokenizer.save_pretrained(folder)
    return folder


def pair(id: str, question: str, chosen: str, rejected: str, **more: Any) -> Pair:
    return Pair(id, [Message(role="user", content=question)], chosen, rejected, **more)


def made_pairs(count: int, seed: int = 0) -> list[Pair]:
    """Questions of unequal length; the better answer thanks, the worse one is rude."""
    draw = np.random.default_rng(seed)
    subjects = ("cats", "the moon", "cooking rice", "a long walk by the sea", "prime numbers")
    found = []
    for number in range(count):
        what = " and ".join(draw.choice(subjects, size=int(draw.integers(1, 5))))
        answer = f"I know {number + 2} things about {what}"
        sides = f"{answer}, thank you for asking.", f"{answer}, what a stupid question!"
        margin = float(draw.integers(1, 4))
        found.append(
            pair(f"p{number}", f"What about {what}?", *sides, margin=margin, source="made")
        )
    return found


def texts_of(pairs: Sequence[Pair]) -> list[str]:
    return [m["content"] for p in pairs for s in ("chosen", "rejected") for m in p.conversation(s)]


def polite_pairs(root: Path) -> list[Pair]:
    """The 1,100 polite and impolite answers of "Build a Large Language Model (From Scratch)"."""
    file = root / "data" / "llms-from-scratch" / "instruction-data-with-preference.json.gz"
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = json.load(lines)
    return [
        pair(str(number), f"{row['instruction']}\n{row['input']}", row["chosen"], row["rejected"])
        for number, row in enumerate(rows)
    ]
