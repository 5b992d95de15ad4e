"""The recipe of RLHFlow's reward models: Bradley–Terry on a classifier's one output."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rewards.pairs import Pair
from rewards.training.export import export_classifier
from rewards.training.fit import fit, forget_checkpoints
from rewards.training.held_out import held_out_accuracy
from rewards.training.model import load_trainable
from rewards.training.pair_encoding import Encoded, encode_pairs, reading_encoder
from rewards.training.pair_objective import PairObjective, base_of
from rewards.training.settings import LossSettings, ReadingSettings, TrainingSettings
from rewards.training.trainer import OnMetrics
from rollout.types import InputError

__all__ = ["train_bradley_terry"]

log = logging.getLogger("rewards")


def train_bradley_terry(
    base: str | Path,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    folder: str | Path,
    *,
    reading: ReadingSettings | None = None,
    training: TrainingSettings | None = None,
    loss: LossSettings | None = None,
    on_metrics: OnMetrics | None = None,
    recipe: str = "bradley_terry",
) -> dict[str, Any]:
    """Train on `pairs` and leave the model in `folder`/model; `folder`/checkpoints comes and goes.

    `base` is a language model, under a new head, or a classifier with one. Called again after a
    kill it goes on. Returns metrics: accuracy on `held_out` with its 95 % interval, the last
    training loss, counts of pairs, and how the model reads (`reading`).

    Raises `InputError` for pairs, models or settings that cannot be used.
    """
    reading, training = reading or ReadingSettings(), training or TrainingSettings()
    folder = Path(folder)
    model, tokenizer = load_trainable(base, "classifier", training)
    attention = base_of(model).config._attn_implementation
    encoder = reading_encoder(tokenizer, base_of(model), reading, str(base))
    train = encode_pairs(pairs, encoder, reading.over_long)
    test = encode_pairs(held_out, encoder, reading.over_long, what="held-out")
    _check_margins(loss or LossSettings(), train)
    fitted = fit(
        model,
        lambda layout: PairObjective(loss or LossSettings(), layout, tokenizer.pad_token_id),
        train.examples,
        test.examples,
        training,
        pad_id=tokenizer.pad_token_id,
        checkpoints=folder / "checkpoints",
        on_metrics=on_metrics or (lambda step, values: None),
    )
    export_classifier(model, encoder, folder / "model", attention=attention, recipe=recipe)
    forget_checkpoints(folder / "checkpoints")
    margins_N = (fitted.values["chosen"] - fitted.values["rejected"]).numpy()
    return {
        **fitted.metrics,
        **measured(margins_N, test, held_out, training.seed),
        **counts(train, test),
        "reading": encoder.describe(),
        "loss": asdict(loss or LossSettings()),
    }


def measured(
    margins_N: np.ndarray, test: Encoded, held_out: Sequence[Pair], seed: int
) -> dict[str, Any]:
    """`held_out_accuracy` of the pairs that became examples."""
    pairs = {pair.id: pair for pair in held_out}
    return held_out_accuracy(margins_N, [pairs[one.id] for one in test.examples], seed=seed)


def counts(train: Encoded, test: Encoded) -> dict[str, Any]:
    return {
        "pairs/train": len(train.examples),
        "pairs/held_out": len(test.examples),
        "pairs/dropped": {"train": train.dropped, "held_out": test.dropped},
        "pairs/cut": train.cut + test.cut,
        "tokens/train": sum(example.tokens for example in train.examples),
    }


def _check_margins(loss: LossSettings, train: Encoded) -> None:
    if loss.margin and not any(example.margin for example in train.examples):
        raise InputError("loss.margin: no pair has a margin: set it to 0, or give the pairs one")
