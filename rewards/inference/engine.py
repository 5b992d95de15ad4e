"""Protocols of what runs a model and of its head: rows of token ids in, outputs out.

`ModelReward` and `PairwiseJudge` use an engine without knowing which library runs the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = [
    "Engine",
    "Head",
    "Outputs",
]

# output name -> array (N, …), float32; "score" (or a judge's "log_odds") is always there
Outputs = dict[str, "np.ndarray"]


class Engine(Protocol):
    """Runs one reward model."""

    def run(self, rows: Sequence[Sequence[int]], names: Sequence[str]) -> Outputs:
        """Return the outputs of N rows of ids, none empty, in order. `names` are for messages.

        Raises `RewardError` for a row that cannot be computed.
        """
        ...

    def describe(self) -> dict[str, object]:
        """Return what the outputs depend on: engine, dtype, device, pooling."""
        ...

    def to(self, device: str) -> None:
        """Move the model, for a GPU that is shared in turn."""
        ...


class Head(Protocol):
    """Which hidden states a model's outputs come from, and how. Computes in float32."""

    def positions(self, ids: Sequence[int], name: str) -> Sequence[int]:
        """Return the Q positions of one row that `outputs` needs; Q is the same for all rows.

        Raises `RewardError` naming the row where there is no such position.
        """
        ...

    def outputs(self, states_BQH: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return named outputs (B, …) of B rows from their states in float32."""
        ...

    def describe(self) -> dict[str, object]:
        """Return kind of head and pooling, for a run's records."""
        ...

    def to(self, device: str) -> None: ...
