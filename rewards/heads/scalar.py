"""One linear output on the last token: a Bradley–Terry sequence classifier's `score`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["ScalarHead"]


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

    def describe(self) -> dict[str, Any]:
        return {"head": "linear", "pooling": "last token"}

    def to(self, device: str) -> None:
        self.weight = self.weight.to(device)
        self.bias = None if self.bias is None else self.bias.to(device)
