"""Train a model on examples under an objective, and continue after a kill."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from rewards.inference.onednn import onednn_linear
from rewards.training import distributed
from rewards.training.examples import Example
from rewards.training.layout import choose_layout
from rewards.training.losses import Objective, base_of
from rewards.training.settings import Layout, TrainingSettings
from rewards.training.shards import ShardedTrainer
from rewards.training.trainer import (
    OnMetrics,
    StepTrainer,
    computes_in_bfloat16,
    latest_checkpoint,
    step_of,
)

__all__ = ["Fitted", "fit", "layout_for"]

log = logging.getLogger("rewards")


@dataclass(frozen=True)
class Fitted:
    """The result of a training: `values` (N,) of the held-out examples at the end; `metrics`."""

    values: dict[str, torch.Tensor]
    metrics: dict[str, float]


def fit(
    model: nn.Module,
    make_objective: Callable[[Layout], Objective],
    examples: Sequence[Example],
    held_out: Sequence[Example],
    settings: TrainingSettings,
    *,
    pad_id: int,
    checkpoints: Path,
    on_metrics: OnMetrics,
) -> Fitted:
    """Train `model` in place and return values and metrics of the held-out examples.

    The folder `checkpoints` is for this training alone; a second call with the same arguments
    continues from its last whole checkpoint, and ends with the same weights.

    Raises `InputError` when there is nothing to train on, the loss is no number, or a single
    example does not fit into memory.
    """
    base = base_of(model)
    own = base.config._attn_implementation or "eager"
    layout = layout_for(model, settings, pad_id)
    make = ShardedTrainer if settings.fsdp else StepTrainer
    trainer = make(
        model,
        make_objective(layout),
        examples,
        held_out,
        settings,
        layout=layout,
        folder=checkpoints,
        on_metrics=on_metrics,
    )
    try:
        with onednn_linear(base):
            latest = distributed.decided_by_first(lambda: latest_checkpoint(checkpoints))
            fitted = _run(trainer, latest)
            if isinstance(trainer, ShardedTrainer):
                trainer.put_whole()
            return fitted
    finally:
        if layout == "packed":
            base.set_attn_implementation(own)


def _run(trainer: StepTrainer, begun: Path | None) -> Fitted:
    trainer.args.eval_on_start = begun is None and bool(trainer.held_out)
    if begun is not None:
        steps = len(trainer.get_train_dataloader())
        log.info("going on from step %d of %d", step_of(begun), steps)
    output = trainer.train(resume_from_checkpoint=None if begun is None else str(begun))
    values, judged = trainer.judged()
    ended = {"train/steps": output.global_step, "train/loss": _last_loss(trainer)}
    trainer.on_metrics(output.global_step, ended)
    return Fitted(values, judged | ended)


def layout_for(model: nn.Module, settings: TrainingSettings, pad_id: int) -> Layout:
    """Return the layout to train in: packed where model and settings allow it, else padded."""
    why_padded = None
    if settings.dropout and _has_dropout(model):
        why_padded = "packed attention has no dropout"
    base = base_of(model)
    backbone = getattr(base, base.base_model_prefix)
    with torch.autocast("cuda", torch.bfloat16, enabled=computes_in_bfloat16(settings)):
        return choose_layout(
            base, backbone, pad_id=pad_id, wanted=settings.layout, why_padded=why_padded
        )


def forget_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of an exported model: each is as large as three models."""
    if distributed.is_first():
        shutil.rmtree(folder, ignore_errors=True)


def _has_dropout(model: torch.nn.Module) -> bool:
    rates = [getattr(module, "p", 0.0) for module in model.modules()
             if isinstance(module, torch.nn.Dropout)]  # fmt: skip
    rates += [
        value
        for module in model.modules()
        for name, value in vars(module).items()
        if "dropout" in name and isinstance(value, float)
    ]
    return any(rates)


def _last_loss(trainer: StepTrainer) -> float:
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return losses[-1] if losses else float("nan")
