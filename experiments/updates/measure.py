"""The numbers of the study: one point per evaluation of every run, and their means over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from experiments.bench.raft_loop import crossing
from experiments.updates.study import Setting
from raft.runs.metrics import Numbers, read_numbers
from rewards.evaluation.stats import mean_ci95

__all__ = ["Mean", "Point", "best_rate", "mean", "points", "reached"]

_STAGES = ("time/generate", "time/score", "time/select", "time/train", "time/sync")


@dataclass(frozen=True)
class Point:
    """An evaluation. `seconds` are those of drawing, scoring, selecting, training and sync until
    then, without evaluations; `kl` is in nats."""

    samples: float
    seconds: float
    reward: float
    gold: float
    kl: float
    distinct_2: float


@dataclass(frozen=True)
class Mean:
    """A mean over seeds, and half of its 95 % interval by Student's t; NaN for one seed."""

    value: float
    half: float

    def __str__(self) -> str:
        half = "" if math.isnan(self.half) else f" ± {self.half:.2f}"
        return f"{self.value:.2f}{half}"


def points(root: Path, setting: Setting) -> list[Point]:
    """Return the evaluations of a run, that of the starting policy first."""
    found, samples, seconds = [], 0.0, 0.0
    for row in read_numbers(root / setting.name):
        if row.iteration:
            samples += row.values.get("rollout/samples", setting.variant.samples)
            seconds += sum(row[stage] for stage in _STAGES if stage in row)
        if "eval/reward_mean" in row:
            found.append(_point(row, samples, seconds))
    return found


def _point(row: Numbers, samples: float, seconds: float) -> Point:
    return Point(
        samples, seconds, row["eval/reward_mean"], row["eval/gold_mean"], row["eval/kl_k1"],
        row["eval/distinct_2"],
    )  # fmt: skip


def mean(values: Sequence[float]) -> Mean:
    return Mean(*mean_ci95(values))


def reached(run: Sequence[Point], column: str, value: float) -> Point | None:
    """Return the point at which `column` first reached `value`; None if it never did.

    All its numbers are interpolated between two evaluations.
    """
    found = crossing([getattr(point, column) for point in run], value)
    if found is None:
        return None
    at, share = found
    both = zip(astuple(run[at]), astuple(run[at + 1]), strict=True)
    return Point(*(before + share * (after - before) for before, after in both))


def best_rate(runs: dict[float, list[list[Point]]]) -> float:
    """Return the learning rate whose runs end at the highest mean gold."""
    return max(runs, key=lambda rate: mean([run[-1].gold for run in runs[rate]]).value)
