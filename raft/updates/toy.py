"""Maximum likelihood for the toy's unigram policy: steps toward what was selected."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raft.updates.rows import sft_rows
from raft.updates.trainer import METRICS_FILE
from rollout.engines.base import context_length
from rollout.engines.toy import read_toy, write_toy

if TYPE_CHECKING:
    from raft.config.train import TrainConfig


class ToyTrainer:
    """Gradient steps on the mean negative log-likelihood, in closed form.

    Of the settings it heeds `learning_rate`, `epochs` (a step each) and `loss_on`.
    """

    def __init__(
        self,
        model: str,
        settings: TrainConfig,
        *,
        checkpoint: str | None = None,
        rank: int = 0,
    ) -> None:
        self._tokenizer, self._logits = read_toy(checkpoint or model)
        self._context = context_length(model)
        self._settings = settings
        self._rank = rank

    def train(self, rows_path: str, out_dir: str, seed: int) -> dict[str, float | int]:
        del seed
        rows = sft_rows(rows_path, self._settings.loss_on)
        labels = [label for row in rows for label in row["labels"] if label >= 0]
        share = np.bincount(labels, minlength=len(self._logits)) / len(labels)
        steps, loss = max(1, round(self._settings.epochs)), 0.0
        for _ in range(steps):
            log_p = self._logits - np.logaddexp.reduce(self._logits)
            loss = float(-(share * log_p).sum())
            self._logits = self._logits + self._settings.learning_rate * (share - np.exp(log_p))
        metrics = {"train/loss": loss, "train/steps": steps, "train/loss_tokens": len(labels)}
        if self._rank == 0:
            write_toy(out_dir, self._tokenizer.words, self._logits.tolist(), self._context)
            (Path(out_dir) / METRICS_FILE).write_text(json.dumps(metrics))
        return metrics

    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        log_p = self._logits - np.logaddexp.reduce(self._logits)
        return [float(log_p[token]) for token in token_ids[1:]]

    def rendezvous(self) -> tuple[str, int]:
        return "127.0.0.1", 0

    def join(self, host: str, port: int) -> None:
        """Toy trainers compute the same update each; nobody needs to meet."""

    def sleep(self) -> None: ...

    def wake(self) -> None: ...
