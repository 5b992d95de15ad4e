"""The recipe of weqweasdas/hh_rlhf_rm_open_llama_3b, after its card.

First the language model is fine-tuned on the chosen texts (chunks of 1,024 tokens, 2 epochs, 2e-5,
linear), then a Bradley–Terry head on pairs of which neither side is longer than 512 tokens (one
epoch, 5e-6, linear; a second one overfits). Text is `###Human: …###Assistant: …` after one BOS,
without EOS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rewards.pairs import Pair
from rewards.training.bradley_terry import train_bradley_terry
from rewards.training.settings import LossSettings, ReadingSettings, TrainingSettings
from rewards.training.sft_stage import train_sft
from rewards.training.trainer import OnMetrics

__all__ = ["HH_READING", "HH_SFT", "HH_TRAINING", "train_hh"]

HH_READING = ReadingSettings(format="hh", bos="single", max_length=512, over_long="drop")
HH_TRAINING = TrainingSettings(learning_rate=5e-6, epochs=1, schedule="linear")
HH_SFT = TrainingSettings(learning_rate=2e-5, epochs=2, schedule="linear")


def train_hh(
    base: str | Path,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    folder: str | Path,
    *,
    sft_pairs: Sequence[Pair] = (),
    reading: ReadingSettings = HH_READING,
    training: TrainingSettings = HH_TRAINING,
    sft: TrainingSettings | None = HH_SFT,
    chunk: int = 1024,
    loss: LossSettings | None = None,
    on_metrics: OnMetrics | None = None,
) -> dict[str, Any]:
    """Both stages: `folder`/sft/model, then `folder`/model.

    `sft_pairs` are for the first stage alone: the card adds that part of the test set which it
    does not evaluate on. `sft` None leaves the first stage out. Metrics of the first stage are
    named `sft/…`, and their steps are its own.

    Returns what `train_bradley_terry` does, and `sft/…`. Raises `InputError`.
    """
    folder, report = Path(folder), on_metrics or (lambda step, values: None)
    first: dict[str, Any] = {}
    if sft is not None:
        first = train_sft(
            base,
            [*pairs, *sft_pairs],
            folder / "sft",
            reading=replace(reading, max_length=None),
            training=sft,
            chunk=chunk,
            on_metrics=lambda step, values: report(step, _named(values)),
        )
        base = folder / "sft" / "model"
    found = train_bradley_terry(
        base,
        pairs,
        held_out,
        folder,
        reading=reading,
        training=training,
        loss=loss,
        on_metrics=report,
        recipe="hh",
    )
    return {**first, **found}


def _named(values: dict[str, float]) -> dict[str, float]:
    return {f"sft/{name.partition('/')[2]}": value for name, value in values.items()}
