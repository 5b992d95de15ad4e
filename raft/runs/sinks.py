"""Optional second homes of the metrics; `metrics.jsonl` is always written and is the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rollout.types import InputError


class Sinks:
    """TensorBoard and Weights & Biases, as far as `names` has them. `settings` go to the latter."""

    def __init__(
        self, names: Sequence[str], root: Path, project: str, settings: dict[str, Any]
    ) -> None:
        self._tensorboard = _tensorboard(root) if "tensorboard" in names else None
        self._wandb = _wandb(root, project, settings) if "wandb" in names else None

    def write(self, row: dict[str, Any]) -> None:
        step = row["iteration"]
        numbers = {key: value for key, value in row.items() if "/" in key}
        if self._tensorboard is not None:
            for key, value in numbers.items():
                self._tensorboard.add_scalar(key, value, step)
            self._tensorboard.flush()
        if self._wandb is not None:
            self._wandb.log({**numbers, "iteration": step})

    def __enter__(self) -> Sinks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=1 if error else 0)


def _tensorboard(root: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "log.sinks",
            "tensorboard is not installed",
            "pip install raft-rlhf[tensorboard]",
        ) from error
    return SummaryWriter(str(root / "tensorboard"))


def _wandb(root: Path, project: str, settings: dict[str, Any]) -> Any:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "log.sinks", "wandb is not installed", "pip install raft-rlhf[wandb]"
        ) from error
    # a continued run goes on under its own name
    return wandb.init(
        project=project,
        id=root.name,
        resume="allow",
        dir=str(root),
        config=settings,
    )
