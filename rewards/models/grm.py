"""Load a GRM (Generalizable Reward Model): a language model with a value head on the last token.

The head is a small MLP, or one linear layer.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from rewards.checkpoints.checkpoint import (
    bare_names,
    check_names,
    read_config,
    read_tensors,
    tensor_shapes,
)
from rewards.checkpoints.loading import (
    load_config,
    load_tokenizer,
    make_encoder,
    pad_id,
    resolve_device,
    resolve_dtype,
)
from rewards.checkpoints.settings import ModelSettings
from rewards.encoding.bos import grm_bos
from rewards.inference.backbone import Backbone
from rewards.inference.transformers import TransformersEngine
from rewards.models.reward import ModelReward
from rewards.models.transformer import check_engine, load_transformer, state_size
from rollout.types import InputError

__all__ = [
    "ValueHead",
    "load_grm",
]


class ValueHead:
    """ReLU between the layers, none after the last; raw values, no sigmoid.

    The published class (`ValueHead` of YangRui2015/Generalizable-Reward-Model) drops 10 % of the
    states while it trains, and casts them to the head's 16 bits; here nothing is dropped, and the
    layers compute in float32 from the file's values.

    Args:
        layers: weight (out, in) and bias (out,) of each linear layer, first to last; the first
            takes H numbers, the last gives one.
    """

    def __init__(self, layers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.layers = [(weight.detach().float(), bias.detach().float()) for weight, bias in layers]

    def positions(self, ids: Sequence[int], name: str) -> Sequence[int]:
        # the row's own last token, whatever its template renders there
        return (len(ids) - 1,)

    def outputs(self, states_BQH: torch.Tensor) -> dict[str, torch.Tensor]:
        value_BD = states_BQH[:, 0]
        for number, (weight, bias) in enumerate(self.layers):
            if number:
                value_BD = value_BD.relu()
            value_BD = nn.functional.linear(value_BD, weight, bias)
        return {"score": value_BD[:, 0]}

    def describe(self) -> dict[str, object]:
        hidden = len(self.layers) - 1
        head = f"MLP with {hidden} hidden layer{'s' * (hidden > 1)}" if hidden else "linear"
        return {"head": head, "pooling": "last token"}

    def to(self, device: str) -> None:
        self.layers = [(weight.to(device), bias.to(device)) for weight, bias in self.layers]


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
        raise InputError(folder, "has no v_head tensor: the value head was not saved with it")
    numbers = {match[1] for match in map(_NUMBERED.match, shapes) if match}
    names = [f"v_head.summary.{2 * number}" for number in range(len(numbers))]
    names = names or ["v_head.summary"]
    parts = [f"{name}.{part}" for name in names for part in ("weight", "bias")]
    check_names(folder, shapes, parts, "value")
    for name in names:
        weight, bias = shapes[f"{name}.weight"], shapes[f"{name}.bias"]
        if len(weight) != 2 or bias != weight[:1]:
            raise InputError(folder, f"{name} is no linear layer ({list(weight)}, {list(bias)})")
    return [(name, shapes[f"{name}.weight"]) for name in names]


def _check_shapes(folder: Path, layers: Layers, size: int) -> None:
    """From H numbers to one, each layer taking what the one before it gives."""
    for name, (outputs, inputs) in layers:
        if inputs != size:
            raise InputError(
                folder,
                f"{name}.weight takes {inputs} numbers and gets {size}: tensors and "
                "config.json do not belong together",
            )
        size = outputs
    if size != 1:
        raise InputError(
            folder,
            f"{layers[-1][0]}, the last layer of its value head, has {size} outputs where a "
            "reward model has one: a layer is missing, or it gives several rewards",
        )


def _check_config(folder: Path, layers: Layers) -> None:
    """Sizes in config.json are not checked: GRM's code saves 1024 neurons whatever they are."""
    config = read_config(folder)
    told = config.get("vhead_layer_type")
    found = "linear" if layers[0][0] == "v_head.summary" else "mlp"
    # GRM's code takes whatever is not "linear" for an MLP
    if told is not None and (told == "linear") != (found == "linear"):
        raise InputError(
            folder,
            f"config.json says vhead_layer_type={told!r}, but its v_head tensors are {found}",
            "correct config.json",
        )
    outputs = config.get("vhead_num_output")
    if outputs not in (None, 1):
        raise InputError(folder, f"gives {outputs} rewards (vhead_num_output): only one is known")
