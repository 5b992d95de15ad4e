"""Train a GRM: Bradley–Terry on a value head, regularised by generating the chosen responses.

Yang et al. 2024 (arXiv 2406.10216). The published settings are `PUBLISHED_LORA` and
`PUBLISHED_FULL`, which share schedule and clipping.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from rewards.data.pair import Pair
from rewards.encoding.bos import grm_bos, with_bos
from rewards.encoding.encoder import Encoder
from rewards.models.transformer import state_size
from rewards.training.bradley_terry import counts, measured
from rewards.training.examples import Encoded, Example, encode_pairs, reading_encoder
from rewards.training.export import export_grm
from rewards.training.fit import fit, forget_checkpoints
from rewards.training.grm_objective import GRMObjective, Head, logits_of
from rewards.training.losses import base_of
from rewards.training.model import load_trainable, pad_id_of, training_device
from rewards.training.settings import (
    GRM_READING,
    PUBLISHED_FULL,
    GRMSettings,
    Layout,
    ReadingSettings,
    TrainingSettings,
)
from rewards.training.trainer import OnMetrics
from rollout.text.chat import apply_chat_template
from rollout.types import InputError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["train_grm"]

log = logging.getLogger("rewards")

HEAD = "v_head"


def train_grm(
    base: str | Path,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    folder: str | Path,
    *,
    reading: ReadingSettings | None = None,
    training: TrainingSettings | None = None,
    settings: GRMSettings | None = None,
    on_metrics: OnMetrics | None = None,
) -> dict[str, object]:
    """Train on `pairs` and leave the model in `folder`/model.

    `base` is a language model with a chat template. Checkpoints are in `folder`/checkpoints until
    the model is written; called again after a kill, training continues from them. `reading`
    defaults to the published one: two BOS where template and tokenizer both write one, 3000 tokens,
    cut on the right. `training` defaults to `PUBLISHED_FULL`.

    Returns metrics: accuracy on `held_out` with its 95 % interval, accuracy of the responses'
    log-probabilities, the last training loss, counts of pairs, and how the model reads.

    Raises `InputError` for pairs, models or settings that cannot be used.
    """
    reading = reading or GRM_READING
    training, settings = training or PUBLISHED_FULL, settings or GRMSettings()
    folder = Path(folder)
    if reading.truncation_side != "right":
        raise InputError(
            "truncation_side", "must be right for GRM: its loss begins after the prompt"
        )
    model, tokenizer = _with_head(base, training, settings)
    attention = base_of(model).config._attn_implementation
    encoder = _encoder(tokenizer, base_of(model), reading, str(base))
    encode = partial(
        encode_pairs, encoder=encoder, over_long=reading.over_long, on_bad_row=reading.on_bad_row
    )
    train = _marked(encode(pairs), pairs, encoder)
    test = _marked(encode(held_out, what="held-out"), held_out, encoder)
    fitted = fit(
        model,
        _objective(model, settings, pad_id_of(tokenizer)),
        train.examples,
        test.examples,
        training,
        pad_id=pad_id_of(tokenizer),
        checkpoints=folder / "checkpoints",
        on_metrics=on_metrics or (lambda step, values: None),
    )
    export_grm(model, encoder, folder / "model", settings, attention=attention)
    forget_checkpoints(folder / "checkpoints")
    margins_N = (fitted.values["chosen"] - fitted.values["rejected"]).numpy()
    return {
        **fitted.metrics,
        **measured(margins_N, test, held_out, training.seed),
        **counts(train, test),
        "reading": encoder.describe(),
        "grm": asdict(settings),
    }


def _with_head(
    base: str | Path, training: TrainingSettings, settings: GRMSettings
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Return the language model with a new value head in float32, and adapters if asked for."""
    dtype = training.dtype
    if dtype == "auto" and training.lora is not None and training_device().type == "cuda":
        dtype = "bfloat16"  # frozen, as for the other recipes
    whole = replace(training, lora=None, dtype=dtype)
    model, tokenizer = load_trainable(base, "causal", whole)
    setattr(
        model, HEAD, Head(state_size(base_of(model).config), settings).to(base_of(model).device)
    )
    if settings.alpha:
        _check_logits(base_of(model), str(base))
    return (_adapted(base_of(model), training) if training.lora else model), tokenizer


def _adapted(model: PreTrainedModel, training: TrainingSettings) -> PeftModel:
    """Put adapters on the frozen model; the value head is trained whole."""
    from peft import LoraConfig, get_peft_model

    lora = training.lora
    assert lora is not None
    wrapped = get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.target_modules,
            exclude_modules=rf".*\b{HEAD}\b.*",
            modules_to_save=[HEAD],
        ),
    )
    if training.gradient_checkpointing:
        wrapped.enable_input_require_grads()
    return wrapped


@torch.no_grad()
def _check_logits(model: PreTrainedModel, name: str) -> None:
    """Check that `logits_of` gives the model's own logits. Raises `InputError` where it does not.

    Some families scale logits in ways of their own, and would be regularised wrongly.
    """
    ids = torch.arange(3, 12, device=model.device)[None]
    backbone = getattr(model, model.base_model_prefix)
    was_training = model.training
    model.eval()
    expected = model(input_ids=ids).logits[0].float()
    found = logits_of(model, backbone(input_ids=ids).last_hidden_state[0])
    model.train(was_training)
    apart = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not apart < (1e-4 if model.dtype == torch.float32 else 0.1):
        raise InputError(
            name,
            f"{type(model).__name__} does more to its logits than is known here",
            "train with alpha=0, or on another base",
        )


def _encoder(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, reading: ReadingSettings, name: str
) -> Encoder:
    """Return the encoder that `load_classifier` would make for the model.

    Raises `InputError` for another format than "chat", or without a chat template.
    """
    if reading.format not in (None, "chat"):
        raise InputError(
            name, 'GRM needs format="chat" to tell prompts from responses', 'set format to "chat"'
        )
    if reading.chat_template is not None:
        tokenizer.chat_template = reading.chat_template
    if not tokenizer.chat_template:
        raise InputError(name, "its tokenizer has no chat template", "give one (chat_template)")
    bos = reading.bos or grm_bos(tokenizer, "chat", name)
    return reading_encoder(tokenizer, model, replace(reading, format="chat", bos=bos), name)


def _marked(encoded: Encoded, pairs: Sequence[Pair], encoder: Encoder) -> Encoded:
    """Return the examples with `loss_from` set to where their responses begin."""
    prompts = {pair.id: pair for pair in pairs}
    return replace(
        encoded, examples=[_told(one, prompts[one.id], encoder) for one in encoded.examples]
    )


def _told(example: Example, pair: Pair, encoder: Encoder) -> Example:
    """Return the example with `loss_from`, the length of its prompt.

    The prompt includes BOS and the header that asks for a response (GRM's `load_datasets.py`); what
    the template writes after the response counts as response.
    """
    tokenizer = encoder.tokenizer
    text = apply_chat_template(tokenizer, pair.prompt, ask=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    start = len(with_bos(ids, tokenizer.bos_token_id, encoder.bos))
    return replace(example, loss_from=tuple(min(start, len(row)) for row in example.rows))


def _objective(
    model: nn.Module, settings: GRMSettings, pad_id: int
) -> Callable[[Layout], GRMObjective]:
    def make(layout: Layout) -> GRMObjective:
        needs_copy = settings.alpha and settings.regulariser == "dpo"
        reference = None
        if needs_copy and not hasattr(model, "disable_adapter"):
            # before the first step, or a checkpoint, changes the weights
            reference = copy.deepcopy(model).eval().requires_grad_(False)
            if training_device().type == "cuda":
                reference.to(training_device(), torch.bfloat16)
        return GRMObjective(settings, layout, pad_id, reference)

    return make
