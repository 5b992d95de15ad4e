"""Train a Bradley–Terry classifier, alone or after fine-tuning on the chosen texts (recipe hh).

`train_bradley_terry` is the recipe of RLHFlow's reward models: one output, trained on pairs.

`train_hh` follows the card of weqweasdas/hh_rlhf_rm_open_llama_3b. It first fine-tunes the language
model on the chosen texts (chunks of 1,024 tokens, 2 epochs, 2e-5, linear), then trains the head on
pairs with both sides within 512 tokens (one epoch, 5e-6, linear; a second one overfits). Text is
`###Human: …###Assistant: …` after one BOS, without EOS.

The first stage uses our trainer instead of TRL's SFTTrainer, so that both stages resume and batch
in one way; TRL's "wrapped" packing also uses a short remainder that the recipe skips.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from rewards.data.pair import Pair
from rewards.training.card import held_out_accuracy
from rewards.training.examples import Encoded, Example, encode_pairs, reading_encoder
from rewards.training.export import export_classifier, export_model
from rewards.training.fit import fit, forget_checkpoints
from rewards.training.losses import LanguageObjective, PairObjective, base_of
from rewards.training.model import load_trainable, pad_id_of
from rewards.training.settings import (
    HH_READING,
    HH_SFT,
    HH_TRAINING,
    LossSettings,
    ReadingSettings,
    TrainingSettings,
)
from rewards.training.trainer import OnMetrics
from rollout.types import InputError

__all__ = [
    "chunks",
    "train_bradley_terry",
    "train_hh",
    "train_sft",
]

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
) -> dict[str, object]:
    """Train on `pairs` and leave the model in `folder`/model.

    `base` is a language model, which gets a new head, or a classifier with one. Checkpoints are in
    `folder`/checkpoints until the model is written; called again after a kill, training continues
    from them. Returns metrics: accuracy on `held_out` with its 95 % interval, the last training
    loss, counts of pairs, and how the model reads (`reading`).

    Raises `InputError` for pairs, models or settings that cannot be used.
    """
    reading, training = reading or ReadingSettings(), training or TrainingSettings()
    folder = Path(folder)
    model, tokenizer = load_trainable(base, "classifier", training)
    attention = base_of(model).config._attn_implementation
    encoder = reading_encoder(tokenizer, base_of(model), reading, str(base))
    train = encode_pairs(pairs, encoder, reading.over_long, on_bad_row=reading.on_bad_row)
    test = encode_pairs(
        held_out, encoder, reading.over_long, what="held-out", on_bad_row=reading.on_bad_row
    )
    _check_margins(loss or LossSettings(), train)
    fitted = fit(
        model,
        lambda layout: PairObjective(loss or LossSettings(), layout, pad_id_of(tokenizer)),
        train.examples,
        test.examples,
        training,
        pad_id=pad_id_of(tokenizer),
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
) -> dict[str, float]:
    """Return the `held_out_accuracy` on the pairs that became examples."""
    pairs = {pair.id: pair for pair in held_out}
    return held_out_accuracy(margins_N, [pairs[one.id] for one in test.examples], seed=seed)


def counts(train: Encoded, test: Encoded) -> dict[str, object]:
    return {
        "pairs/train": len(train.examples),
        "pairs/held_out": len(test.examples),
        "pairs/dropped": {"train": train.dropped, "held_out": test.dropped},
        "pairs/cut": train.cut + test.cut,
        "tokens/train": sum(example.tokens for example in train.examples),
    }


def _check_margins(loss: LossSettings, train: Encoded) -> None:
    if loss.margin and not any(example.margin for example in train.examples):
        raise InputError(
            "loss.margin",
            "no pair has a margin",
            "set it to 0, or give the pairs one",
        )


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
    """Fine-tune a language model on the chosen texts into `folder`/model, and return its metrics.

    Texts are read as the reward model will read them, end to end, in chunks of `chunk` tokens, with
    the loss on all tokens. A model that is there already is not made again.
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
        lambda layout: LanguageObjective(layout, pad_id_of(tokenizer)),
        chunks(rows, chunk),
        [],
        training,
        pad_id=pad_id_of(tokenizer),
        checkpoints=folder / "checkpoints",
        on_metrics=on_metrics,
    )
    found = {f"sft/{name.partition('/')[2]}": value for name, value in fitted.metrics.items()}

    def finish(partial: Path) -> None:
        (partial / _DONE).write_text(json.dumps(found))

    export_model(model, tokenizer, folder / "model", attention=attention, finish=finish)
    forget_checkpoints(folder / "checkpoints")
    return found


def chunks(rows: Iterable[Sequence[int]], size: int) -> list[Example]:
    """Put rows of ids end to end and cut them every `size` tokens.

    What remains at the end is skipped, as in LMFlow's `group_texts`, unless there is nothing else.
    """
    line = np.concatenate([np.asarray(row, dtype=np.int32) for row in rows])
    whole = len(line) // size * size
    pieces = line[:whole].reshape(-1, size) if whole else line[None]
    return [
        Example((piece,), id=f"chunk {number}", loss_from=(1,))
        for number, piece in enumerate(pieces)
    ]


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
) -> dict[str, object]:
    """Train both stages: `folder`/sft/model, then `folder`/model.

    `sft_pairs` are for the first stage alone: the card adds that part of the test set which it does
    not evaluate on. `sft` None skips the first stage. Metrics of the first stage are named `sft/…`,
    and their steps are its own.

    Returns what `train_bradley_terry` does, and `sft/…`. Raises `InputError` as it does.
    """
    folder, report = Path(folder), on_metrics or (lambda step, values: None)
    first: dict[str, float] = {}
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
