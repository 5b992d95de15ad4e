"""The updates of the toy's unigram policy: gradient steps in closed form."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raft.config.updates import DpoUpdate
from raft.updates.rows import MIXED, of_mean_one, pair_rows, sft_rows
from raft.updates.trainer import METRICS_FILE, Update
from rollout.engines.base import context_length
from rollout.engines.toy import read_toy, write_toy
from rollout.errors import EngineError

if TYPE_CHECKING:
    from raft.config.train import TrainConfig
    from rollout.engines.transfer import SentTensors, SharedChunk, Transfer


Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
LossAndSlope = Callable[[Floats], tuple[float, Floats, int]]


class ToyTrainer:
    """A trainer by gradient steps on the mean loss of the tokens, or of the pairs, in closed form.

    It uses the settings `update`, `start_from`, `mix`, `kl`, `learning_rate`, `epochs` (a step
    each) and `loss_on`, and ignores all others.
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
        self._start = read_toy(model)[1]
        self._context = context_length(model)
        self._settings = settings
        self._rank = rank

    def rehearse(self, prompt: int, response: int) -> float:
        return 0.0

    def train(self, update: Update) -> dict[str, float | int]:
        loss_of = self._pair_loss if self._settings.update.kind == "dpo" else self._token_loss
        drew = self._logits
        if update.drawn_by is not None and self._settings.update.bounds:
            drew = read_toy(update.drawn_by)[1]
        tokens_N, loss_and_slope = loss_of(Path(update.rows), _log_p(drew))
        if self._settings.start_from == "start":
            self._logits = self._start
        steps, loss = max(1, round(self._settings.epochs)), 0.0
        for _ in range(steps):
            log_p = _log_p(self._logits)
            loss, slope_N, count = loss_and_slope(log_p)
            # d log p(token) / d logits is 1 at the token, less p everywhere
            here_V = np.bincount(tokens_N, slope_N, minlength=len(log_p)) / count
            up = here_V - slope_N.sum() / count * np.exp(log_p)
            self._logits = self._logits - self._settings.learning_rate * up
        metrics = {"train/loss": loss, "train/steps": steps, "train/loss_tokens": len(tokens_N)}
        if self._rank == 0 and update.out_dir is not None:
            write_toy(update.out_dir, self._tokenizer.words, self._logits.tolist(), self._context)
            (Path(update.out_dir) / METRICS_FILE).write_text(json.dumps(metrics))
        return metrics

    def _token_loss(self, path: Path, drawn: Floats) -> tuple[Ids, LossAndSlope]:
        """Return the N trained tokens, and a function of log p (V,).

        That function returns the mean loss, the slope of the summed loss in each token (N,), and N.
        """
        settings = self._settings
        rows = list(sft_rows(path, settings.loss_on))
        if settings.update.kind == "weighted":
            rows = of_mean_one(rows)
        mixed = list(sft_rows(path.with_name(MIXED), settings.loss_on)) if settings.mix else []
        found = [
            (label, row.get("weight", 1.0), number < len(rows))
            for number, row in enumerate([*rows, *mixed])
            for label in row["labels"]
            if label >= 0
        ]
        tokens_N, weight_N, drawn_N = (np.array(column) for column in zip(*found, strict=True))
        bounds, start = settings.update.bounds, _log_p(self._start)[tokens_N]

        def loss_and_slope(log_p: Floats) -> tuple[float, Floats, int]:
            own = log_p[tokens_N]
            losses, slopes = -weight_N * own, -weight_N
            if bounds:
                ratio = np.where(drawn_N, np.exp(own - drawn[tokens_N]), 1.0)
                counted = np.minimum(ratio * weight_N, ratio.clip(*bounds) * weight_N)
                losses = -counted
                slopes = np.where(counted == ratio * weight_N, -ratio * weight_N, 0.0)
            if settings.kl:
                away = np.where(drawn_N, start - own, 0.0)
                losses = losses + settings.kl * (np.exp(away) - away - 1)
                slopes = slopes + settings.kl * (1 - np.exp(away))
            return float(losses.mean()), slopes, len(tokens_N)

        return tokens_N, loss_and_slope

    def _pair_loss(self, path: Path, drawn: Floats) -> tuple[Ids, LossAndSlope]:
        update = self._settings.update
        assert isinstance(update, DpoUpdate), "the caller looks"
        reference = drawn if update.reference == "previous" else _log_p(self._start)
        found = [
            (token, sign, number)
            for number, pair in enumerate(pair_rows(path))
            for sign, ids in ((1.0, pair["chosen_ids"]), (-1.0, pair["rejected_ids"]))
            for token in ids
        ]
        tokens_N, sign_N, pair_N = (np.array(column) for column in zip(*found, strict=True))

        def loss_and_slope(log_p: Floats) -> tuple[float, Floats, int]:
            apart_N = update.beta * sign_N * (log_p - reference)[tokens_N]
            margin_P = np.bincount(pair_N, apart_N)
            slope_P = -update.beta / (1 + np.exp(margin_P))
            return float(np.logaddexp(0, -margin_P).mean()), sign_N * slope_P[pair_N], len(margin_P)

        return tokens_N, loss_and_slope

    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        log_p = _log_p(self._logits)
        return [float(log_p[token]) for token in token_ids[1:]]

    def tensors(self, dtype: str) -> SentTensors:
        raise EngineError("a toy policy has no tensors to send")

    def send(self, to: Transfer, dtype: str) -> None:
        raise EngineError("a toy policy has no tensors to send")

    def share(self, dtype: str, first: bool) -> SharedChunk | None:
        raise EngineError("a toy policy has no tensors to share")

    def dtype(self) -> str:
        return "float64"

    def store(self, checkpoint: str) -> None: ...

    def rendezvous(self) -> tuple[str, int]:
        return "127.0.0.1", 0

    def join(self, host: str, port: int) -> None:
        """Do nothing: every toy trainer computes the whole update alone."""

    def sleep(self) -> None: ...

    def wake(self) -> None: ...


def _log_p(logits: Floats) -> Floats:
    return logits - np.logaddexp.reduce(logits)
