"""What turns rows of token ids into a model's outputs: one engine per library that can.

`ModelReward` and `PairwiseJudge` stand on it; neither knows which library runs the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ENGINES", "Engine", "EngineName", "Outputs"]

EngineName = Literal["auto", "transformers", "vllm"]
ENGINES: tuple[EngineName, ...] = ("auto", "transformers", "vllm")
# output name -> array (N, …), float32; "score" (or a judge's "log_odds") is always there
Outputs = dict[str, "np.ndarray"]


class Engine(Protocol):
    """Runs one reward model."""

    def run(self, rows: Sequence[Sequence[int]], names: Sequence[str]) -> Outputs:
        """N rows of ids, none empty, to outputs in the same order. `names` are for messages.

        Raises `RewardError` for a row that cannot be computed.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """What the outputs depend on: engine, dtype, device, pooling."""
        ...

    def to(self, device: str) -> None:
        """Move the model, for a GPU that is shared in turn."""
        ...
