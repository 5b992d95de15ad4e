"""The head of a scalar reward model: linear layers on the last token's state.

The head is read from the checkpoint's tensors, never drawn at random; tensors that look like a head
of an unknown kind are named in the error.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rewards.checkpoints.checkpoint import check_names, read_config, read_tensors, tensor_shapes
from rewards.checkpoints.heads import SUMMARY, HeadTensors, find_head, heads_in_words
from rollout.types import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["LinearHead", "read_head"]

log = logging.getLogger("rewards")

Shapes = Mapping[str, tuple[int, ...]]


class LinearHead:
    """Linear layers on the last token's state, ReLU between them; raw values, no sigmoid.

    The last token is the row's own. transformers' `*ForSequenceClassification` takes the right-most
    one that is not `config.pad_token_id`: with pad == eos it scores the token before the closing
    one. GRM's class applies a dropout of 10 % to the states while it trains, and casts them to the
    head's 16 bits; here there is no dropout, and the layers compute in float32 from the file's
    values.

    Args:
        layers: weight (out, in) and bias (out,) or None of each layer, first to last; the first
            takes H numbers, the last gives one.
        mean, std: the value becomes (value − mean) / std.
    """

    def __init__(
        self,
        layers: Sequence[tuple[torch.Tensor, torch.Tensor | None]],
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        self.layers = [
            (weight.detach().float(), None if bias is None else bias.detach().float())
            for weight, bias in layers
        ]
        self.mean, self.std = mean, std

    def positions(self, ids: Sequence[int], name: str) -> Sequence[int]:
        # the row's own last token, whatever its template renders there
        return (len(ids) - 1,)

    def outputs(self, states_BQH: torch.Tensor) -> dict[str, torch.Tensor]:
        from torch.nn.functional import linear

        value_BD = states_BQH[:, 0]
        for number, (weight, bias) in enumerate(self.layers):
            value_BD = linear(value_BD.relu() if number else value_BD, weight, bias)
        return {"score": (value_BD[:, 0] - self.mean) / self.std}

    def describe(self) -> dict[str, object]:
        hidden = len(self.layers) - 1
        head = f"MLP with {hidden} hidden layer{'s' * (hidden > 1)}" if hidden else "linear"
        moved = (self.mean, self.std) != (0.0, 1.0)
        scale = {"mean": self.mean, "std": self.std} if moved else {}
        return {"head": head, "pooling": "last token", **scale}

    def to(self, device: str) -> None:
        self.layers = [
            (weight.to(device), None if bias is None else bias.to(device))
            for weight, bias in self.layers
        ]


def read_head(folder: Path, size: int, stem: str | None = None) -> tuple[HeadTensors, LinearHead]:
    """Read the head, for states of H (`size`) numbers; return where its tensors are, and the head.

    `stem` names its tensors, where the family says so. Raises `InputError` when a tensor is
    missing, of a wrong shape or one too many, and when config.json contradicts the tensors.
    """
    config, shapes = read_config(folder), tensor_shapes(folder)
    head = find_head(folder, config, shapes, stem)
    if not head.names:
        wanted = "v_head tensor" if stem else "score.weight or another reward head"
        fix = "copy or save its head with it, or rename it to score.weight"
        raise InputError(folder, f"has no {wanted}: {heads_in_words(shapes)}", fix)
    bare = {name: shapes[there] for name, there in head.names.items()}
    layers = _layers(folder, head.stem, bare)
    part = re.compile(rf"(^|\.){re.escape(head.stem.split('.')[0])}\.")
    beside = {name for name in shapes if part.search(name)} - set(head.names.values())
    check_names(folder, beside, (), head.stem)  # refuses a norm, or LoRA on the head
    _check_shapes(folder, layers, bare, size)
    _check_config(folder, config, head.stem, layers)
    tensors = read_tensors(folder, set(head.names.values()))
    parts = {name: tensors[there] for name, there in head.names.items()}
    made = [(parts[f"{layer}.weight"], parts.get(f"{layer}.bias")) for layer in layers]
    return head, LinearHead(made, *_scale(folder, config))


def _layers(folder: Path, stem: str, shapes: Shapes) -> list[str]:
    """Return the names of the linear layers, in order.

    One layer has the head's own name; several are a `Sequential` of Linear, ReLU, Linear, …
    """
    numbers = {name.split(".")[-2] for name in shapes if name.split(".")[-2].isdigit()}
    names = [f"{stem}.{2 * number}" for number in range(len(numbers))] or [stem]
    if numbers and stem not in ("score", SUMMARY):
        problem = f"has a head of several layers, {stem}, and what is between them is not known"
        raise InputError(folder, problem)
    weights, biases = ([f"{name}.{part}" for name in names] for part in ("weight", "bias"))
    if stem == "score" and not numbers:  # transformers' classes have no bias
        biases = []
    elif stem not in ("score", SUMMARY):
        biases = [name for name in biases if name in shapes]
    check_names(folder, shapes, [*weights, *biases], "value" if stem == SUMMARY else stem)
    return names


def _check_shapes(folder: Path, layers: Sequence[str], shapes: Shapes, size: int) -> None:
    """Check that the layers lead from H (`size`) numbers to one, each fitting the one before it.

    Raises `InputError` where they do not.
    """
    for name in layers:
        weight, bias = shapes[f"{name}.weight"], shapes.get(f"{name}.bias")
        if len(weight) != 2 or bias not in (None, weight[:1]):
            bias_in_words = "" if bias is None else f", {list(bias)}"
            problem = f"{name} is no linear layer ({list(weight)}{bias_in_words})"
            raise InputError(folder, problem)
        outputs, inputs = weight
        if inputs != size:
            raise InputError(
                folder,
                f"{name}.weight takes {inputs} numbers and gets {size}: tensors and "
                "config.json do not belong together",
            )
        size = outputs
    last = f"{layers[-1]}.weight"
    if size != 1 and len(layers) == 1:
        raise InputError(
            folder,
            f"{last} is {list(shapes[last])}: a reward model has one output, [1, hidden size]",
        )
    if size != 1:
        raise InputError(
            folder,
            f"{layers[-1]}, the last layer of its head, has {size} outputs where a "
            "reward model has one: a layer is missing, or it gives several rewards",
        )


def _check_config(
    folder: Path, config: Mapping[str, object], stem: str, layers: Sequence[str]
) -> None:
    """Check that config.json asks for the head that was found. Raises `InputError` where not.

    Sizes of GRM's head are not checked: its code saves 1024 neurons whatever they are.
    """
    told = config.get("vhead_layer_type")
    found = "linear" if layers[0] == stem else "mlp"
    # GRM's code takes whatever is not "linear" for an MLP
    if stem == SUMMARY and told is not None and (told == "linear") != (found == "linear"):
        raise InputError(
            folder,
            f"config.json says vhead_layer_type={told!r}, but its v_head tensors are {found}",
            "correct config.json",
        )
    outputs = config.get("vhead_num_output")
    if stem == SUMMARY and outputs not in (None, 1):
        raise InputError(folder, f"gives {outputs} rewards (vhead_num_output): only one is known")
    if config.get("do_normalize"):  # Beaver
        raise InputError(folder, "normalises its scores (do_normalize), which is not known here")
    if config.get("reward_token_id") is not None:  # InternLM
        raise InputError(folder, "is read at a token of its own (reward_token_id): not supported")


def _scale(folder: Path, config: Mapping[str, object]) -> tuple[float, float]:
    """Return OpenRLHF's `mean` and `std` of the scores, as config.json has them.

    Return (0, 1) where it has none, or says that they are not used. Raises `InputError` for a std
    that is not above 0.
    """
    mean, std = config.get("mean"), config.get("std")
    if not (isinstance(mean, int | float) and isinstance(std, int | float)):
        return 0.0, 1.0
    used = config.get("normalize_reward") is not False
    how = "normalised" if used else "not normalised (normalize_reward is false)"
    log.info("%s: scores are %s by mean %g and std %g of its config.json", folder, how, mean, std)
    if used and not std > 0:
        raise InputError(folder, f"has std {std} in config.json, which is no scale", "correct it")
    return (float(mean), float(std)) if used else (0.0, 1.0)
