"""Checkpoints that are whole, and where a killed training goes on."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rewards.training import processes

__all__ = ["MarkComplete", "latest_checkpoint", "step_of"]

log = logging.getLogger("rewards")

_MARK = "complete.json"


class MarkComplete(TrainerCallback):
    """Leaves a mark in each checkpoint once all of it is written."""

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        processes.wait()  # each has a random state to write
        if not processes.is_first():
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (folder / _MARK).write_text(json.dumps({"step": state.global_step}))


def latest_checkpoint(folder: Path) -> Path | None:
    """The last whole checkpoint; what a kill left half written is deleted."""
    found = sorted(folder.glob("checkpoint-*"), key=step_of)
    for half in (path for path in found if not (path / _MARK).exists()):
        log.warning("%s was not finished: deleted", half)
        shutil.rmtree(half, ignore_errors=True)
    return next((path for path in reversed(found) if path.exists()), None)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
