"""Fine-tuning on the chosen texts before a reward model is trained on them: the first stage of HH.

Own chunks on our own trainer, and not TRL's SFTTrainer: one way to resume and to batch serves both
stages, and TRL's "wrapped" packing keeps a short remainder that the recipe leaves out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewards.pairs import Pair
from rewards.training.example import Example
from rewards.training.export import export_model
from rewards.training.fit import fit, forget_checkpoints
from rewards.training.language_objective import LanguageObjective
from rewards.training.model import load_trainable
from rewards.training.pair_encoding import reading_encoder
from rewards.training.pair_objective import base_of
from rewards.training.settings import ReadingSettings, TrainingSettings
from rewards.training.trainer import OnMetrics

__all__ = ["chunks", "train_sft"]

_DONE = "sft.json"


def train_sft(
    base: str | Path,
    pairs: Sequence[Pair],
    folder: Path,
    *,
    reading: ReadingSettings,
    training: TrainingSettings,
    chunk: int = 1024,
    on_metrics: OnMetrics,
) -> dict[str, float]:
    """A language model of the chosen texts in `folder`/model, made once; the loss is on all tokens.

    Texts are read as the reward model will read them, end to end, in chunks of `chunk` tokens.
    """
    done = folder / "model" / _DONE
    if done.exists():
        return json.loads(done.read_text())
    model, tokenizer = load_trainable(base, "causal", training)
    attention = base_of(model).config._attn_implementation
    encoder = reading_encoder(tokenizer, base_of(model), reading, str(base))
    encoder.max_length = None
    names = [f"pair {pair.id!r} (chosen)" for pair in pairs]
    rows = encoder.encode([pair.conversation("chosen") for pair in pairs], names)
    fitted = fit(
        model,
        lambda layout: LanguageObjective(layout, tokenizer.pad_token_id),
        chunks(rows, chunk),
        [],
        training,
        pad_id=tokenizer.pad_token_id,
        checkpoints=folder / "checkpoints",
        on_metrics=on_metrics,
    )
    found = {f"sft/{name.partition('/')[2]}": value for name, value in fitted.metrics.items()}

    def finish(partial: Path) -> None:
        (partial / _DONE).write_text(json.dumps(found))

    export_model(model, tokenizer, folder / "model", attention=attention, finish=finish)
    forget_checkpoints(folder / "checkpoints")
    return found


def chunks(rows: Iterable[Any], size: int) -> list[Example]:
    """Rows of ids end to end, cut every `size` tokens. What remains at the end is left out, as in
    LMFlow's `group_texts`, unless it is all there is."""
    line = np.concatenate([np.asarray(row, dtype=np.int32) for row in rows])
    whole = len(line) // size * size
    pieces = line[:whole].reshape(-1, size) if whole else line[None]
    return [
        Example((piece,), id=f"chunk {number}", loss_from=(1,))
        for number, piece in enumerate(pieces)
    ]
