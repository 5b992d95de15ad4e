"""The protocol of a head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

__all__ = ["Head"]


class Head(Protocol):
    """Which hidden states a model's outputs come from, and how. Computes in float32."""

    def positions(self, ids: Sequence[int], name: str) -> Sequence[int]:
        """The Q positions of one row that `outputs` needs; Q is the same for all rows.

        Raises `RewardError` naming the row where there is no such position.
        """
        ...

    def outputs(self, states_BQH: torch.Tensor) -> dict[str, torch.Tensor]:
        """States in float32 to named outputs (B, …)."""
        ...

    def describe(self) -> dict[str, Any]:
        """Kind of head and pooling, for a run's records."""
        ...

    def to(self, device: str) -> None: ...
