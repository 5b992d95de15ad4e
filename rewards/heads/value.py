"""GRM's value head: a small MLP, or one linear layer, on the last token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["ValueHead"]


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

    def describe(self) -> dict[str, Any]:
        hidden = len(self.layers) - 1
        head = f"MLP with {hidden} hidden layer{'s' * (hidden > 1)}" if hidden else "linear"
        return {"head": head, "pooling": "last token"}

    def to(self, device: str) -> None:
        self.layers = [(weight.to(device), bias.to(device)) for weight, bias in self.layers]
