"""A plain classifier out of a GRM: its frozen states under a new linear head.

As the published `GRM-*-distill` models: whoever can load a sequence classifier can use it, vLLM
too. The head is a logistic regression on differences of states, −log σ(w·(e_c − e_r)) + λ/2·‖w‖²,
which is convex; λ comes from the loss on a fifth of the pairs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from rewards.backbone import Backbone
from rewards.pairs import Pair
from rewards.training.export import export_classifier
from rewards.training.features import FeatureType, extract, last_token
from rewards.training.held_out import held_out_accuracy
from rewards.training.model import load_trainable
from rewards.training.pair_encoding import reading_encoder
from rewards.training.settings import ReadingSettings, TrainingSettings
from rollout.types import InputError

__all__ = ["PENALTIES", "LinearFit", "distil_grm", "fit_linear"]

log = logging.getLogger("rewards")

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
_BLOCK = 8192


@dataclass(frozen=True, slots=True)
class LinearFit:
    """Weights (H,) in float64, the λ chosen, mean loss of the pairs held back for it."""

    weight_H: np.ndarray
    penalty: float
    loss: float


def distil_grm(
    base: str | Path,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    folder: str | Path,
    *,
    reading: ReadingSettings | None = None,
    penalties: Sequence[float] = PENALTIES,
    validation_share: float = 0.2,
    dtype: str = "auto",
    feature_dtype: FeatureType = "float32",
    chunk_rows: int = 512,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit a linear head on the states of `base`, a GRM, and leave a classifier in `folder`/model.

    States are read, here and ever after, as a classifier's are: with one BOS unless `reading` says
    otherwise. They stay in `folder`/features.

    Returns metrics: accuracy on `held_out` with its 95 % interval, λ and counts. Raises
    `InputError` for pairs, models or settings that cannot be used.
    """
    folder, reading = Path(folder), reading or ReadingSettings()
    model, tokenizer = load_trainable(base, "classifier", TrainingSettings(seed=seed, dtype=dtype))  # type: ignore[arg-type]
    attention = model.config._attn_implementation
    encoder = reading_encoder(tokenizer, model, reading, str(base))
    transformer = getattr(model, model.base_model_prefix)
    backbone = Backbone(transformer, pad_id=tokenizer.pad_token_id, name=str(base))

    def differences(some: Sequence[Pair], file: str) -> np.ndarray:
        rows = (pair.conversation(side) for pair in some for side in ("chosen", "rejected"))
        path = folder / "features" / file
        states_S1H = extract(
            backbone, encoder, last_token, rows, path, dtype=feature_dtype, chunk_rows=chunk_rows
        )
        return states_S1H[:, 0].reshape(len(some), 2, -1)

    found = fit_linear(
        differences(pairs, "pairs.npy"), penalties, validation_share=validation_share, seed=seed
    )
    metrics = {"pairs/train": len(pairs), "penalty": found.penalty, "train/loss": found.loss}
    if held_out:
        sides_P2H = differences(held_out, "held_out.npy")
        margins_P = np.concatenate([d @ found.weight_H for d in _differences(sides_P2H)])
        metrics |= held_out_accuracy(margins_P, held_out, seed=seed)
        metrics["pairs/held_out"] = len(held_out)
    with torch.no_grad():
        model.score.weight.copy_(torch.from_numpy(found.weight_H)[None])
    export_classifier(model, encoder, folder / "model", attention=attention, recipe="distil")
    log.info("distilled %s into %s: %s", base, folder / "model", metrics)
    return metrics


def fit_linear(
    sides_P2H: np.ndarray,
    penalties: Sequence[float] = PENALTIES,
    *,
    validation_share: float = 0.2,
    seed: int = 0,
) -> LinearFit:
    """The head on P pairs of states (chosen, rejected), fitted on those not held back.

    Raises `InputError` for fewer than 2 pairs or settings out of range.
    """
    if len(sides_P2H) < 2 or not penalties or min(penalties) <= 0 or not 0 < validation_share < 1:
        raise InputError(
            f"{len(sides_P2H)} pairs, penalties={list(penalties)}, validation_share="
            f"{validation_share}: give 2 pairs or more, penalties above 0, a share in (0, 1)"
        )
    order = np.random.default_rng(seed).permutation(len(sides_P2H))
    count = min(max(1, round(validation_share * len(order))), len(order) - 1)
    held, fitted = np.sort(order[:count]), np.sort(order[count:])
    weight_H = torch.zeros(sides_P2H.shape[-1], dtype=torch.float64)
    fits = []
    # from strong to weak, each beginning where the one before ended
    for penalty in sorted(penalties, reverse=True):
        weight_H = _minimise(sides_P2H, fitted, penalty, weight_H)
        with torch.no_grad():
            loss = float(_loss(sides_P2H, held, weight_H))
        fits.append(LinearFit(weight_H.numpy().copy(), penalty, loss))
    return min(fits, key=lambda fit: fit.loss)


def _minimise(
    sides_P2H: np.ndarray, rows: np.ndarray, penalty: float, start_H: torch.Tensor
) -> torch.Tensor:
    weight_H = start_H.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight_H], max_iter=200, tolerance_grad=1e-8, tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = _loss(sides_P2H, rows, weight_H, backward=True)
        ridge = penalty / 2 * weight_H @ weight_H
        ridge.backward()
        return loss + ridge.detach()

    optimizer.step(closure)  # type: ignore[arg-type]
    return weight_H.detach()


def _loss(
    sides_P2H: np.ndarray, rows: np.ndarray, weight_H: torch.Tensor, *, backward: bool = False
) -> torch.Tensor:
    """Mean of −log σ over `rows`; a block at a time, so that a file of any size will do."""
    total = torch.zeros((), dtype=torch.float64)
    for start in range(0, len(rows), _BLOCK):
        (block,) = _differences(sides_P2H[rows[start : start + _BLOCK]])
        loss = -logsigmoid(torch.from_numpy(block) @ weight_H).sum() / len(rows)
        if backward:
            loss.backward()
        total += loss.detach()
    return total


def _differences(sides_P2H: np.ndarray) -> Iterator[np.ndarray]:
    """e_c − e_r (B, H) in float64."""
    for start in range(0, len(sides_P2H), _BLOCK):
        block = np.asarray(sides_P2H[start : start + _BLOCK], dtype=np.float64)
        yield block[:, 0] - block[:, 1]
