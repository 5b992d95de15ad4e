"""The small language model that the recipes start from: a Llama 3 in miniature.

Tokenizer (byte-level BPE with Llama 3's special tokens and chat template) and weights are made from
the training pairs alone: the chosen texts, read a few times by `rewards.training.bradley_terry`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.data.pair import Pair

__all__ = [
    "FRESH",
    "LANGUAGE_MODEL",
    "Sizes",
    "build_tokenizer",
    "make_fresh",
    "make_language_model",
]

FRESH, LANGUAGE_MODEL = "fresh", "language_model"
_BOS, _EOS, _PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"
_START, _END, _EOT = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
# the pattern of Llama 3; with that of GPT-2 the split of newlines after a header would depend on
# the text after them
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# the template of Llama 3, without the date and the default system prompt of 3.1
TEMPLATE = (
    "{% for m in messages %}{% set content = '" + _START + "' + m['role'] + '" + _END + "\n\n' "
    "+ m['content'] | trim + '" + _EOT + "' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '" + _START + "assistant" + _END + "\n\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of the tokenizer and the Llama, and `epochs` of language modelling."""

    vocabulary: int = 2048
    hidden: int = 128
    layers: int = 2
    positions: int = 1024
    epochs: float = 2
    learning_rate: float = 2e-3


def build_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Train a byte-level BPE tokenizer with Llama 3's special tokens and chat template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(_PIECES), "isolated")
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pieces, bytes_of])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_BOS, _EOS, _PAD, _START, _END, _EOT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{_BOS} $A", special_tokens=[(_BOS, bpe.token_to_id(_BOS))]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=_BOS, eos_token=_EOS, pad_token=_PAD, padding_side="right"
    )
    made.chat_template = TEMPLATE
    return made


def make_fresh(folder: Path, tokenizer: Any, sizes: Sizes, seed: int) -> int:
    """Write a random Llama and the tokenizer to `folder`; return its parameter count."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = sizes.hidden // 32
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.hidden,
        intermediate_size=3 * sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=32,
        max_position_embeddings=sizes.positions,
        # the usual 0.02 is for wide models
        initializer_range=sizes.hidden**-0.5,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.num_parameters()


def make_language_model(
    fresh: Path, folder: Path, pairs: Sequence[Pair], sizes: Sizes, seed: int
) -> Path:
    """Train the fresh model on the chosen texts; a second call resumes or returns the result."""
    from rewards.training.bradley_terry import train_sft
    from rewards.training.settings import ReadingSettings, TrainingSettings

    train_sft(
        fresh,
        pairs,
        folder,
        reading=ReadingSettings(format="chat", bos="single"),
        training=TrainingSettings(
            learning_rate=sizes.learning_rate,
            epochs=sizes.epochs,
            batch_size=8,
            schedule="cosine",
            warmup_ratio=0.05,
            weight_decay=0.1,
            seed=seed,
        ),
        chunk=512,
        on_metrics=lambda step, values: None,
    )
    return folder / "model"
