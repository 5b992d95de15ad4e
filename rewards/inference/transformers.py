"""Reward models on transformers: a backbone and a head, in batches under a token budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rewards.inference.backbone import Backbone
from rewards.inference.batching import run_in_batches
from rewards.inference.engine import Head, Outputs
from rewards.types import RewardError

__all__ = ["TransformersEngine"]

# tokens per batch: a GPU wants full batches, a CPU gains nothing beyond its caches
_BATCH_TOKENS = {"cuda": 32768, "cpu": 2048}


class TransformersEngine:
    """An engine of a backbone and a head on one device.

    `batch_tokens` bounds the tokens of a batch: those computed, padding included.
    """

    def __init__(self, backbone: Backbone, head: Head, batch_tokens: int | None = None) -> None:
        self.backbone = backbone
        self.head = head
        self.batch_tokens = batch_tokens or _BATCH_TOKENS.get(backbone.device.type, 2048)
        head.to(str(backbone.device))

    def run(self, rows: Sequence[Sequence[int]], names: Sequence[str]) -> Outputs:
        positions = [self.head.positions(row, n) for row, n in zip(rows, names, strict=True)]
        found: Outputs = {}

        def run(batch: list[int]) -> None:
            outputs = self._run_batch(rows, positions, names, batch)
            for name, values in outputs.items():
                array = found.setdefault(
                    name, np.full((len(rows), *values.shape[1:]), np.nan, dtype=np.float32)
                )
                array[batch] = values

        if rows:
            order, fitting = self.backbone.plan(rows)
            run_in_batches(order, fitting, self.batch_tokens, run, _is_out_of_memory)
        return found

    def describe(self) -> dict[str, object]:
        return {
            "engine": "transformers",
            "architecture": type(self.backbone.model).__name__,
            "layout": self.backbone.layout,
            "dtype": str(self.backbone.dtype).removeprefix("torch."),
            "device": str(self.backbone.device),
            **self.head.describe(),
        }

    def to(self, device: str) -> None:
        self.backbone.model.to(device)
        self.head.to(device)
        if device == "cpu" and torch.cuda.is_available():
            torch.cuda.empty_cache()  # else this process keeps the memory from all others

    def _run_batch(
        self,
        rows: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]],
        names: Sequence[str],
        batch: list[int],
    ) -> Outputs:
        try:
            states_BQH = self.backbone.states(
                [rows[i] for i in batch], [positions[i] for i in batch]
            )
            with torch.inference_mode():
                outputs = self.head.outputs(states_BQH)
        except RuntimeError as error:
            if len(batch) > 1 or not _is_out_of_memory(error):
                raise
            raise RewardError(
                f"out of memory on {names[batch[0]]} alone ({len(rows[batch[0]])} tokens): "
                "use a smaller max_length or dtype"
            ) from error
        return {name: values.float().cpu().numpy() for name, values in outputs.items()}


def _is_out_of_memory(error: BaseException) -> bool:
    # the CPU allocator raises a plain RuntimeError
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
