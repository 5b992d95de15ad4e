"""The log-odds of one next token against another: a pairwise judge's label "A" against "B"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["LabelHead"]


class LabelHead:
    """ℓ_A − ℓ_B at the last token, from two rows of a language model's output embedding.

    Args:
        weight: rows of A and of B (2, H), tied or not.
        bias: (2,) or None.
        scale: what the model multiplies its logits with.
        softcap: logits ℓ become c·tanh(ℓ/c) (Gemma's `final_logit_softcapping`).
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        scale: float = 1.0,
        softcap: float | None = None,
    ) -> None:
        self.weight = weight.detach().float()
        self.bias = None if bias is None else bias.detach().float()
        self.scale = scale
        self.softcap = softcap

    def positions(self, ids: Sequence[int], name: str) -> Sequence[int]:
        return (len(ids) - 1,)

    def outputs(self, states_BQH: torch.Tensor) -> dict[str, torch.Tensor]:
        states_BH = states_BQH[:, 0]
        if self.softcap is not None:
            logits_B2 = self.logits(states_BH)
            return {"log_odds": logits_B2[:, 0] - logits_B2[:, 1]}
        # one product: the difference of two large logits would keep fewer digits
        log_odds_B = states_BH @ (self.weight[0] - self.weight[1])
        if self.bias is not None:
            log_odds_B = log_odds_B + (self.bias[0] - self.bias[1])
        return {"log_odds": self.scale * log_odds_B}

    def logits(self, states_NH: torch.Tensor) -> torch.Tensor:
        """(N, 2): the logits of A and B, as the model gives them."""
        logits_N2 = self.scale * nn.functional.linear(states_NH, self.weight, self.bias)
        if self.softcap is None:
            return logits_N2
        return self.softcap * torch.tanh(logits_N2 / self.softcap)

    def describe(self) -> dict[str, Any]:
        return {"head": "labels", "pooling": "last token"}

    def to(self, device: str) -> None:
        self.weight = self.weight.to(device)
        self.bias = None if self.bias is None else self.bias.to(device)
