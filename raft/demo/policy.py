"""A small Llama, trained from random weights in plain PyTorch on (prompt, response) texts.

It is saved as transformers, vLLM and TRL expect a model: weights, configuration and tokenizer in
one folder. This module does not depend on what the texts mean.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.storage.files import share_like_others

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["PolicyReport", "build_tokenizer", "train_policy"]

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
IGNORED = -100


@dataclass(frozen=True)
class PolicyReport:
    """The number of parameters, and the loss of every step, in nats per token."""

    parameters: int
    losses: tuple[float, ...]


def train_policy(
    out_dir: str | Path,
    texts: Sequence[tuple[str, str]],
    seed: int,
    *,
    epochs: int = 1,
    learning_rate: float = 3e-3,
    batch_size: int = 8,
    block: int = 128,
    hidden_size: int = 96,
    layers: int = 2,
    head_dim: int = 48,
    vocab_size: int = 1024,
) -> PolicyReport:
    """Train a policy on `texts` and save it with its tokenizer in `out_dir`.

    `head_dim` must be 32 or 48: vLLM's CPU attention refuses smaller heads.
    """
    import torch

    tokenizer = build_tokenizer((prompt + response for prompt, response in texts), vocab_size)
    blocks = _pack(_documents(tokenizer, texts), block)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(tokenizer, block, hidden_size, layers, head_dim)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one core trains while libraries are loaded on another
    losses = _train(model, blocks, seed, epochs, learning_rate, batch_size)
    torch.set_num_threads(threads)
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    share_like_others(Path(out_dir))
    return PolicyReport(model.num_parameters(), tuple(losses))


def build_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on `texts` and return it.

    It begins every text with BOS; BOS, EOS and PAD are distinct tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bos_id = bpe.token_to_id(BOS)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos_id)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BOS, eos_token=EOS, pad_token=PAD, padding_side="left"
    )


def _documents(tokenizer: Any, texts: Sequence[tuple[str, str]]) -> list[list[int]]:
    return [[*tokenizer(p + r).input_ids, tokenizer.eos_token_id] for p, r in texts]


def _model(
    tokenizer: Any, block: int, hidden_size: int, layers: int, head_dim: int
) -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = hidden_size // head_dim
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=head_dim,
        max_position_embeddings=block,
        # the usual 0.02 is for wide models: here it would delay copying from the prompt for epochs
        initializer_range=hidden_size**-0.5,
        # vLLM on a CPU keeps the old output head of a tied model after new weights are loaded
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


@dataclass(frozen=True)
class _Blocks:
    """Whole texts packed side by side into rows of one length.

    Positions restart with every text: by this transformers knows to keep texts apart in attention.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor


def _pack(documents: Sequence[list[int]], block: int) -> _Blocks:
    import torch

    rows = _rows([document[:block] for document in documents], block)
    input_ids = torch.zeros(len(rows), block, dtype=torch.long)
    labels = torch.full_like(input_ids, IGNORED)
    position_ids = torch.zeros_like(input_ids)
    for r, row in enumerate(rows):
        start = 0
        for document in row:
            end = start + len(document)
            input_ids[r, start:end] = torch.tensor(document)
            # the first token of a text is not learned: nothing predicts it
            labels[r, start + 1 : end] = torch.tensor(document[1:])
            position_ids[r, start:end] = torch.arange(len(document))
            start = end
        position_ids[r, start:] = torch.arange(block - start)
    return _Blocks(input_ids, labels, position_ids)


def _rows(documents: Sequence[list[int]], block: int) -> list[list[list[int]]]:
    """Return rows of documents in their order; a row ends before the document that does not fit."""
    rows: list[list[list[int]]] = []
    room = 0
    for document in documents:
        if len(document) > room:
            rows.append([])
            room = block
        rows[-1].append(document)
        room -= len(document)
    return rows


def _train(
    model: LlamaForCausalLM,
    blocks: _Blocks,
    seed: int,
    epochs: int,
    learning_rate: float,
    batch_size: int,
) -> list[float]:
    import torch

    count = len(blocks.input_ids)
    steps = epochs * math.ceil(count / batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, (0.9, 0.95), weight_decay=0.1)
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, max(0.02, 1 - step / steps))
    )
    losses: list[float] = []
    model.train()
    for epoch in range(epochs):
        order = list(range(count))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        for start in range(0, count, batch_size):
            losses.append(_step(model, blocks, order[start : start + batch_size], optimizer))
            schedule.step()
    model.eval()
    return losses


def _step(
    model: LlamaForCausalLM, blocks: _Blocks, rows: list[int], optimizer: torch.optim.Optimizer
) -> float:
    import torch

    loss = model(
        input_ids=blocks.input_ids[rows],
        position_ids=blocks.position_ids[rows],
        labels=blocks.labels[rows],
        use_cache=False,
    ).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()
