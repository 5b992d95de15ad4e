"""The metrics of a run: their timing, `metrics.jsonl`, a line for the log, copies for other tools.

`metrics.jsonl` has one JSON object per line, one line per iteration and phase. It is always
written and is the truth; TensorBoard and Weights & Biases are optional copies.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rollout.errors import InputError, naming

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from raft.config.run import LogConfig

log = logging.getLogger("raft")

Metric = float | int | str | Sequence[str]  # what a row of `metrics.jsonl` holds under one key

CONTROL = "control"  # the folder of a run's control, in its own

__all__ = [
    "CONTROL",
    "Metric",
    "Numbers",
    "Sinks",
    "Stopwatch",
    "controls_of",
    "number",
    "read_metrics",
    "read_numbers",
    "report_line",
]


# seconds; a shorter stage gets no line in the log
_LONG = 2.0


class Stopwatch:
    """A timer of an iteration's stages: `with watch("train"):` gives `time/train`, in seconds.

    The stage "start", which waits for workers that are starting, is no part of the iteration.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._stages: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str, before: float = 0.0) -> Iterator[None]:
        """Time a stage, which had taken `before` seconds when the watch was made."""
        start = time.monotonic()
        yield
        key, seconds = f"time/{stage}", time.monotonic() - start
        self._stages[key] = self._stages.get(key, 0.0) + seconds + before
        self._start -= before
        if seconds >= _LONG:
            log.info("%s: %.1f s", stage, seconds)

    def metrics(self) -> dict[str, float]:
        """Return the seconds of the stages so far and, since the watch was made, `time/iteration`.

        The stage "start" does not count in the latter.
        """
        seconds = time.monotonic() - self._start - self._stages.get("time/start", 0.0)
        return {**self._stages, "time/iteration": seconds}


def controls_of(run_dirs: Iterable[Path]) -> list[Path]:
    """Return the controls of these runs that have metrics, without those among `run_dirs`."""
    known = [path.absolute() for path in run_dirs]
    found = (path / CONTROL for path in known)
    return [path for path in found if (path / "metrics.jsonl").is_file() and path not in known]


def read_metrics(
    run_dir: str | Path, *, on_damage: Callable[[str], None] | None = None
) -> list[dict[str, object]]:
    """Return a dict per iteration, in order: the rows of its phases merged, without `phase`.

    Where two rows give one key, the later line counts, as it does after a resumed run.

    Args:
        on_damage: called with what is wrong with a broken line, which is then skipped; without
            it a broken line is an error.

    Raises:
        InputError: for a missing folder or file, and for a broken line, which it names.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise InputError(run_dir, "no such run folder", "name the run_dir of a run")
    file = run_dir / "metrics.jsonl"
    if not file.is_file():
        raise InputError(run_dir, "holds no metrics.jsonl", "name a run that `raft run` has begun")
    merged: dict[int, dict[str, object]] = {}
    with naming(file), file.open("rb") as lines:
        for line_number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                iteration, row = _row(line, f"{file}:{line_number}")
            except InputError as error:
                if on_damage is None:
                    raise
                on_damage(str(error))
            else:
                merged.setdefault(iteration, {}).update(row)
    for row in merged.values():
        row.pop("phase", None)
    return [merged[iteration] for iteration in sorted(merged)]


@dataclass(frozen=True, slots=True)
class Numbers:
    """The metrics of one iteration that are finite numbers, by key; `iteration` is one of them."""

    iteration: int
    values: dict[str, float]

    @classmethod
    def of(cls, iteration: int, row: Mapping[str, object]) -> Numbers:
        found = ((key, number(row, key)) for key in row)
        return cls(iteration, {key: value for key, value in found if value is not None})

    def get(self, key: str) -> float | None:
        return self.values.get(key)

    def __getitem__(self, key: str) -> float:
        return self.values[key]

    def __contains__(self, key: str) -> bool:
        return key in self.values


def read_numbers(
    run_dir: str | Path, *, on_damage: Callable[[str], None] | None = None
) -> list[Numbers]:
    """Return the finite numbers of `read_metrics`, per iteration: the input of curves and reports.

    Raises InputError as `read_metrics` does.
    """
    rows = read_metrics(run_dir, on_damage=on_damage)
    return [Numbers.of(int(str(row["iteration"])), row) for row in rows]


def number(row: Mapping[str, object], key: str) -> float | None:
    """Return the finite number under `key` as a float; None for anything else, booleans too."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an int that no float holds
        return None


def _row(line: bytes, where: str) -> tuple[int, dict[str, object]]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # covers bytes that are not UTF-8
        raise InputError(where, "not valid JSON", "fix or delete the line") from None
    iteration = row.get("iteration") if isinstance(row, dict) else None
    if not isinstance(iteration, int) or isinstance(iteration, bool):
        raise InputError(where, "no whole number as iteration", "fix or delete the line")
    return iteration, row


def report_line(rows: Iterable[Mapping[str, object]], iteration: int) -> str:
    """Return a line on an iteration: its held-out reward, gold, KL, loss, speed and seconds.

    Metrics that `rows` do not have are skipped.
    """
    phases = [row for row in rows if row["iteration"] == iteration]
    merged = Numbers.of(iteration, {key: row[key] for row in phases for key in row})
    parts = [f"iteration {iteration}"]
    if "eval/reward_mean" in merged:
        parts.append(f"held-out reward {_with_interval(merged, 'eval/reward')}")
        parts.append(f"best of K {merged['eval/best_of_k']:.3f}")
    if "eval/gold_mean" in merged:
        parts.append(f"gold {_with_interval(merged, 'eval/gold')}")
    if "eval/win_rate" in merged:
        half_width = merged.get("eval/win_rate_ci95") or 0.0
        parts.append(f"wins {merged['eval/win_rate']:.2f} ± {half_width:.2f} of the start")
    if merged.get("eval/kl_k1"):
        parts.append(f"KL {merged['eval/kl_k1']:.2f} ± {merged.get('eval/kl_k1_ci95') or 0.0:.2f}")
    if "select/reward_mean" in merged:
        # points of a tournament are no reward
        won = "winners" if "rollout/judge_comparisons" in merged else None
        reward = won or f"at {merged['select/reward_mean']:.3f}"
        parts.append(f"kept {merged['select/kept']:.0f} {reward}")
    if "train/loss" in merged:
        parts.append(f"loss {merged['train/loss']:.3f}")
    if "rollout/tokens_per_second" in merged:
        parts.append(f"{merged['rollout/tokens_per_second']:,.0f} tokens/s")
    if "time/iteration" in merged:
        parts.append(f"{merged['time/iteration']:.1f} s")
    return " | ".join(parts)


def _with_interval(row: Numbers, key: str) -> str:
    half_width = row.get(f"{key}_ci95")
    mean = f"{row[f'{key}_mean']:.3f}"
    return mean if half_width is None else f"{mean} ± {half_width:.3f}"


class Sinks:
    """TensorBoard and Weights & Biases, if the config's `log` names them.

    Args:
        settings: the whole config, which a run in Weights & Biases shows.
    """

    def __init__(self, log: LogConfig, root: Path, settings: Mapping[str, object]) -> None:
        self._tensorboard = _tensorboard(root) if "tensorboard" in log.sinks else None
        self._wandb = _wandb(root, log.wandb_project, settings) if "wandb" in log.sinks else None

    def write(self, row: Mapping[str, object]) -> None:
        step = int(str(row["iteration"]))
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


def _tensorboard(root: Path) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "log.sinks",
            "tensorboard is not installed",
            "pip install raft-rlhf[tensorboard]",
        ) from error
    return SummaryWriter(str(root / "tensorboard"))


def _wandb(root: Path, project: str, settings: Mapping[str, object]) -> Any:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "log.sinks", "wandb is not installed", "pip install raft-rlhf[wandb]"
        ) from error
    # a continued run goes on under its own name
    return wandb.init(
        project=project,
        id=f"{root.parent.name}-{CONTROL}" if root.name == CONTROL else root.name,
        resume="allow",
        dir=str(root),
        config=settings,
    )
