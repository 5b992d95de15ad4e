"""What a trainer is, and which one updates a policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rollout.engines.base import TOY_FILE

METRICS_FILE = "train.json"


class Trainer(Protocol):
    """Holds the policy's trainable weights, and its optimizer from update to update."""

    def rendezvous(self) -> tuple[str, int]:
        """Address and port at which rank 0 of several trainers can be met."""
        ...

    def join(self, host: str, port: int) -> None:
        """Meet the other ranks there; called once on each rank before anything else."""
        ...

    def train(self, rows_path: str, out_dir: str, seed: int) -> dict[str, Any]:
        """One update on selected rows; writes weights, tokenizer and optimizer to `out_dir`."""
        ...

    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        """log p(token_t | tokens before t) for t = 1 … T−1, in nats."""
        ...

    def sleep(self) -> None: ...

    def wake(self) -> None: ...


def build_trainer(model: str, **arguments: Any) -> Trainer:
    """The TRL trainer, or the toy's for a toy policy."""
    if (Path(model) / TOY_FILE).exists():
        from raft.updates.toy import ToyTrainer

        return ToyTrainer(model, **arguments)
    from raft.updates.sft import SFT

    return SFT(model, **arguments)
