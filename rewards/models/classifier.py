"""Load a Bradley–Terry sequence classifier: one linear output (`score`) on the last token.

A checkpoint that would score at random, because its head is missing, is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rewards.checkpoints.checkpoint import tensor_shapes, weight_files
from rewards.checkpoints.loading import (
    check_left_out,
    check_vllm_device,
    load_config,
    load_tokenizer,
    load_weights,
    make_encoder,
    pad_id,
    resolve_device,
    resolve_dtype,
)
from rewards.checkpoints.settings import ModelSettings
from rewards.inference.backbone import Backbone
from rewards.inference.engine import Engine
from rewards.inference.transformers import TransformersEngine
from rewards.inference.vllm import VLLMPoolingEngine
from rewards.models.reward import ModelReward
from rewards.types import EngineName
from rollout.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = [
    "ScalarHead",
    "load_classifier",
]


class ScalarHead:
    """The raw logit, no sigmoid. `weight` (1, H), `bias` (1,) or None.

    The last token is the row's own. transformers' `*ForSequenceClassification` takes the right-most
    one that is not `config.pad_token_id`: with pad == eos it scores the token before the closing.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.weight = weight.detach().float()
        self.bias = None if bias is None else bias.detach().float()

    def positions(self, ids: Sequence[int], name: str) -> Sequence[int]:
        return (len(ids) - 1,)

    def outputs(self, states_BQH: torch.Tensor) -> dict[str, torch.Tensor]:
        logits_B1 = nn.functional.linear(states_BQH[:, 0], self.weight, self.bias)
        return {"score": logits_B1[:, 0]}

    def describe(self) -> dict[str, object]:
        return {"head": "linear", "pooling": "last token"}

    def to(self, device: str) -> None:
        self.weight = self.weight.to(device)
        self.bias = None if self.bias is None else self.bias.to(device)


log = logging.getLogger("rewards")

HEAD = "score.weight"


def load_classifier(folder: Path, settings: ModelSettings, *, name: str) -> ModelReward:
    """Load model and tokenizer from `folder`.

    Raises `InputError` when the head is missing or has more than one output, a tensor is missing,
    the architecture is unknown, or the settings do not fit.
    """
    _check_head(folder)
    config = _classifier_config(folder)
    tokenizer = load_tokenizer(folder)
    vocabulary = config.get_text_config().vocab_size
    encoder = make_encoder(tokenizer, config, settings, name=name, vocabulary=vocabulary)
    if _chosen_engine(settings, name) == "vllm":
        engine: Engine = _vllm_engine(folder, config, settings, encoder.max_length)
    else:
        pad = pad_id(config, tokenizer, vocabulary)
        engine = _transformers_engine(folder, config, settings, pad, name)
    reward = ModelReward(
        encoder, engine, name=name, kind="classifier", non_finite=settings.non_finite
    )
    log.info("loaded reward model: %s", reward.describe())
    return reward


def _check_head(folder: Path) -> None:
    """transformers would draw a missing head at random, and score with it."""
    shapes = tensor_shapes(folder)
    shape = shapes.get(HEAD)
    if shape is None:
        files = ", ".join(file.name for file in weight_files(folder)[:3])
        encoder = any(name.startswith("classifier.") for name in shapes)
        reason = ": heads named classifier (encoders) are not supported yet" if encoder else ""
        raise InputError(folder, f"has no {HEAD} in {files}{reason or ': it has no reward head'}")
    if len(shape) != 2 or shape[0] != 1:
        raise InputError(
            folder,
            f"{HEAD} is {list(shape)}: a reward model has one output, [1, hidden size]",
        )


def _classifier_config(folder: Path) -> PreTrainedConfig:
    from transformers import AutoModelForSequenceClassification

    config = load_config(folder)
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        raise InputError(folder, f"no sequence classifier is known for {config.model_type!r}")
    config.num_labels = 1  # as the head says; old configs leave it out and mean two
    return config


def _chosen_engine(settings: ModelSettings, name: str) -> EngineName:
    """Transformers, unless vLLM is asked for by name.

    On a CPU vLLM scores about 1.8 times as fast but starts 5 s later, which pays from some 900
    conversations on (`experiments/bench/reward_engines.py`: 3 million parameters, 230 tokens, one
    thread), and it takes hold of its process. On a GPU neither has been measured.
    """
    if settings.engine == "auto":
        log.info(
            "%s: engine transformers, because it starts sooner and disturbs nothing in its process "
            '(engine "vllm" may score large batches faster)',
            name,
        )
        return "transformers"
    log.info("%s: engine %s, asked for by name", name, settings.engine)
    return settings.engine


def _transformers_engine(
    folder: Path, config: PreTrainedConfig, settings: ModelSettings, pad: int, name: str
) -> TransformersEngine:
    device = resolve_device(settings.device)
    model = _load_model(folder, config, resolve_dtype(settings.dtype, config, device), device)
    backbone = Backbone(getattr(model, model.base_model_prefix), pad_id=pad, name=name)
    head = ScalarHead(model.score.weight, model.score.bias)
    return TransformersEngine(backbone, head, settings.batch_tokens)


def _vllm_engine(
    folder: Path, config: PreTrainedConfig, settings: ModelSettings, max_length: int | None
) -> VLLMPoolingEngine:
    dtype = str(resolve_dtype(settings.dtype, config, check_vllm_device(settings.device)))
    return VLLMPoolingEngine(
        str(folder), dtype=dtype, max_length=max_length, batch_tokens=settings.batch_tokens
    )


def _load_model(
    folder: Path, config: PreTrainedConfig, dtype: torch.dtype, device: torch.device
) -> Any:
    from transformers import AutoModelForSequenceClassification

    model, unexpected = load_weights(AutoModelForSequenceClassification, folder, config, dtype)
    check_left_out(folder, model, unexpected, heads=())
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise InputError(
            f"{type(model).__name__}",
            "has no linear head named score: not supported",
        )
    return model.to(device)
