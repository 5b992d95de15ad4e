"""From a checkpoint folder to a `ClassifierReward`. Refuses whatever would score at random."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rewards.bos import Bos, own_bos
from rewards.checkpoint import tensor_shapes, weight_files
from rewards.classifier import ClassifierReward
from rewards.encoding import Encoder
from rewards.formats import Format, render
from rewards.truncation import TruncationSide
from rewards.types import NonFinite
from rollout.types import InputError, Message

__all__ = ["load_classifier"]

log = logging.getLogger("rewards")

HEAD = "score.weight"
DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16")}
# padded tokens per batch: a GPU wants full batches, a CPU gains nothing beyond its caches
BATCH_TOKENS = {"cuda": 32768, "cpu": 2048}
# tokenizers that know no limit say 1e30
NO_LIMIT = 10**9


def load_classifier(
    folder: Path,
    *,
    name: str,
    format: Format | None = None,
    bos: Bos | None = None,
    dtype: str | None = None,
    device: str | None = None,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    truncation_side: TruncationSide = "left",
    separator: str = "",
    non_finite: NonFinite = "raise",
) -> ClassifierReward:
    """Load model and tokenizer from `folder`.

    Left at None: `format` is "chat" where the tokenizer has a template, else "plain"; `bos` is
    what tokenizer and template would add once; `dtype` is the checkpoint's own on a GPU and
    float32 on a CPU; `max_length` is what model and tokenizer can take.

    Raises `InputError` when the head is missing or has more than one output, a tensor is missing,
    the architecture is unknown, or the settings do not fit.
    """
    _check_head(folder)
    place = _device(device)
    tokenizer = _load_tokenizer(folder)
    model = _load_model(folder, dtype, place)
    format = format or _default_format(tokenizer, name)
    encoder = Encoder(
        tokenizer,
        format=format,
        bos=bos or _default_bos(tokenizer, format),
        vocabulary=model.get_input_embeddings().num_embeddings,
        max_length=max_length or _longest(model, tokenizer),
        truncation_side=truncation_side,
        separator=separator,
    )
    reward = ClassifierReward(
        model,
        encoder,
        name=name,
        pad_id=_pad_id(model, tokenizer),
        batch_tokens=batch_tokens or BATCH_TOKENS.get(place.type, BATCH_TOKENS["cpu"]),
        non_finite=non_finite,
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
        raise InputError(f"{folder} has no {HEAD} in {files}{reason or ': it has no reward head'}")
    if len(shape) != 2 or shape[0] != 1:
        raise InputError(
            f"{folder} has {shape[0]} outputs ({HEAD} is {list(shape)}): a reward model has one"
        )


def _load_model(folder: Path, dtype: str | None, device: torch.device) -> Any:
    from transformers import AutoModelForSequenceClassification

    config = _load_config(folder)
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=config,
            dtype=_dtype(dtype, config, device),
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{folder} cannot be loaded: {_line(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(f"{folder} lacks the tensor {missing[0]} ({len(missing)} in all)")
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise InputError(f"{type(model).__name__} has no linear head named score: not supported")
    return model.to(device)


def _load_config(folder: Path) -> Any:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: config.json is not usable: {_line(error)}") from error
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        raise InputError(f"{folder}: no sequence classifier is known for {config.model_type!r}")
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"{folder}: encoder-decoder models ({config.model_type}) are not supported"
        )
    config.num_labels = 1  # as the head says; old configs leave it out and mean two
    config.use_cache = False
    if not 0 <= (getattr(config, "pad_token_id", None) or 0) < config.get_text_config().vocab_size:
        config.pad_token_id = None  # never used here, and torch refuses ids beyond the embedding
    return config


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: its tokenizer cannot be loaded: {_line(error)}") from error


def _device(device: str | None) -> torch.device:
    if device in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device={device!r} is unknown: use auto, cpu, or cuda:N") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device={device!r}, but torch sees no GPU here: use cpu")
    return place


def _dtype(dtype: str | None, config: Any, device: torch.device) -> torch.dtype:
    if dtype is not None:
        name = str(dtype).removeprefix("torch.")
        if name not in DTYPES:
            raise InputError(f"dtype={dtype!r} is unknown: use one of {', '.join(DTYPES)}")
        return DTYPES[name]
    # CPUs are slow in 16 bits, and float32 holds every 16-bit weight exactly
    return torch.float32 if device.type == "cpu" else (config.dtype or torch.float32)


def _default_format(tokenizer: Any, name: str) -> Format:
    if tokenizer.chat_template:
        return "chat"
    log.warning('%s: no chat template and no known format; using format="plain"', name)
    return "plain"


def _default_bos(tokenizer: Any, format: Format) -> Bos:
    if own_bos(tokenizer) == "single" or format != "chat" or tokenizer.bos_token_id is None:
        return own_bos(tokenizer)
    probe = [Message(role="user", content="a"), Message(role="assistant", content="b")]
    ids = tokenizer(render(probe, format, tokenizer), add_special_tokens=False)["input_ids"]
    return "single" if ids[:1] == [tokenizer.bos_token_id] else "none"


def _longest(model: Any, tokenizer: Any) -> int | None:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limits = [limit for limit in (positions, tokenizer.model_max_length) if limit]
    known = [int(limit) for limit in limits if limit < NO_LIMIT]
    return min(known) if known else None


def _pad_id(model: Any, tokenizer: Any) -> int:
    """Any id of the vocabulary will do; old configs name -1, or an id that was never added."""
    size = model.get_input_embeddings().num_embeddings
    config = model.config.get_text_config()
    for candidate in (getattr(config, "pad_token_id", None), tokenizer.pad_token_id):
        if isinstance(candidate, int) and 0 <= candidate < size:
            return candidate
    return 0


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
