"""What a recipe tells the trainer: the loss of examples, and how to judge the held-out ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from rewards.training.examples import Example

__all__ = ["Objective", "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """Of a batch of P examples.

    Args:
        loss: the sum (not the mean) of what is minimised, a scalar in float32.
        values: what is known per example, (P,) each; not differentiated.
    """

    loss: torch.Tensor
    values: dict[str, torch.Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """A loss that is a sum over examples divided by the sum of their weights.

    Being that, it does not depend on how the examples of a step are cut into batches.
    """

    def weight(self, example: Example) -> float:
        """What an example adds to the denominator: 1, or its number of tokens with a loss."""
        ...

    def run(self, model: Any, examples: Sequence[Example]) -> Outcome:
        """One forward pass over `examples`; `model` may be wrapped by peft."""
        ...

    def judge(self, values: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Metrics of the held-out examples from their `values`, (N,) on the CPU, in order."""
        ...
