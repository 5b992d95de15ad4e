"""GRM (Generalizable Reward Model): a language model with a value head, from its folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rewards.backbone import Backbone
from rewards.bos import grm_bos
from rewards.checkpoint import read_config, tensor_shapes
from rewards.heads.value import ValueHead
from rewards.load_backbone import check_engine, load_transformer, state_size
from rewards.model_reward import ModelReward
from rewards.parts import (
    load_config,
    load_tokenizer,
    make_encoder,
    pad_id,
    resolve_device,
    resolve_dtype,
)
from rewards.settings import ModelSettings
from rewards.state import bare_names, check_names, read_tensors
from rewards.transformers_engine import TransformersEngine
from rollout.types import InputError

__all__ = ["load_grm"]

log = logging.getLogger("rewards")

HEAD = "v_head."
_NUMBERED = re.compile(r"v_head\.summary\.(\d+)\.")
Shapes = Mapping[str, tuple[int, ...]]
# name and weight shape (out, in) of linear layers, first to last
Layers = list[tuple[str, tuple[int, ...]]]


def load_grm(folder: Path, settings: ModelSettings, *, name: str) -> ModelReward:
    """Load transformer, value head and tokenizer from `folder`, tied or untied, wrapped or not.

    Raises `InputError` when a tensor is missing, of a wrong shape or one too many, or the settings
    do not fit: a head is never drawn at random.
    """
    check_engine(settings, "value", name)
    config = load_config(folder)
    head = _read_head(folder, state_size(config))
    device = resolve_device(settings.device)
    tokenizer = load_tokenizer(folder)
    vocabulary = config.get_text_config().vocab_size
    settings = replace(settings, bos=settings.bos or grm_bos(tokenizer, settings.format, name))
    encoder = make_encoder(tokenizer, config, settings, name=name, vocabulary=vocabulary)
    dtype = resolve_dtype(settings.dtype, config, device)
    backbone = Backbone(
        load_transformer(folder, config, dtype, device, heads=[HEAD]),
        pad_id=pad_id(config, tokenizer, vocabulary),
        name=name,
    )
    engine = TransformersEngine(backbone, head, settings.batch_tokens)
    reward = ModelReward(encoder, engine, name=name, kind="grm", non_finite=settings.non_finite)
    log.info("loaded reward model: %s", reward.describe())
    return reward


def _read_head(folder: Path, size: int) -> ValueHead:
    """The layers by their tensors; config.json may not contradict them."""
    shapes = tensor_shapes(folder)
    names = bare_names(folder, (name for name in shapes if HEAD in name))
    layers = _layers(folder, {bare: shapes[name] for bare, name in names.items()})
    _check_shapes(folder, layers, size)
    _check_config(folder, layers)
    tensors = read_tensors(folder, set(names.values()))
    found = {bare: tensors[name] for bare, name in names.items()}
    return ValueHead([(found[f"{layer}.weight"], found[f"{layer}.bias"]) for layer, _ in layers])


def _layers(folder: Path, shapes: Shapes) -> Layers:
    """Name and weight shape of each linear layer, in order.

    A linear head is `v_head.summary`, an MLP a `Sequential` of Linear, ReLU, Linear, …, Linear.
    """
    if not shapes:
        raise InputError(f"{folder} has no v_head tensor: the value head was not saved with it")
    numbers = {match[1] for match in map(_NUMBERED.match, shapes) if match}
    names = [f"v_head.summary.{2 * number}" for number in range(len(numbers))]
    names = names or ["v_head.summary"]
    parts = [f"{name}.{part}" for name in names for part in ("weight", "bias")]
    check_names(folder, shapes, parts, "value")
    for name in names:
        weight, bias = shapes[f"{name}.weight"], shapes[f"{name}.bias"]
        if len(weight) != 2 or bias != weight[:1]:
            raise InputError(f"{folder}: {name} is no linear layer ({list(weight)}, {list(bias)})")
    return [(name, shapes[f"{name}.weight"]) for name in names]


def _check_shapes(folder: Path, layers: Layers, size: int) -> None:
    """From H numbers to one, each layer taking what the one before it gives."""
    for name, (outputs, inputs) in layers:
        if inputs != size:
            raise InputError(
                f"{folder}: {name}.weight takes {inputs} numbers and gets {size}: "
                "tensors and config.json do not belong together"
            )
        size = outputs
    if size != 1:
        raise InputError(
            f"{folder}: {layers[-1][0]}, the last layer of its value head, has {size} outputs "
            "where a reward model has one: a layer is missing, or it gives several rewards"
        )


def _check_config(folder: Path, layers: Layers) -> None:
    """Sizes in config.json are not checked: GRM's code saves 1024 neurons whatever they are."""
    config = read_config(folder)
    told = config.get("vhead_layer_type")
    found = "linear" if layers[0][0] == "v_head.summary" else "mlp"
    # GRM's code takes whatever is not "linear" for an MLP
    if told is not None and (told == "linear") != (found == "linear"):
        raise InputError(
            f"{folder}: config.json says vhead_layer_type={told!r}, but its v_head tensors "
            f"are {found}: correct config.json"
        )
    outputs = config.get("vhead_num_output")
    if outputs not in (None, 1):
        raise InputError(f"{folder} gives {outputs} rewards (vhead_num_output): only one is known")
