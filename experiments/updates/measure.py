"""The numbers of the study: one point per evaluation of every run, and their means over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import stats

from experiments.updates.study import Setting
from raft.runs.metrics import Numbers, read_numbers

__all__ = ["Mean", "Point", "best_rate", "mean", "points", "reached"]

_STAGES = ("time/generate", "time/score", "time/select", "time/train", "time/sync")
_BATCH = 256


@dataclass(frozen=True)
class Point:
    """An evaluation. `seconds` are of drawing, scoring, training and sync until then, without the
    evaluations themselves."""

    samples: float
    seconds: float
    reward: float
    gold: float
    kl: float
    distinct_2: float

    def row(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Mean:
    """A mean over seeds, and half of its 95 % interval by Student's t; NaN for one seed."""

    value: float
    half: float

    def __str__(self) -> str:
        half = "" if math.isnan(self.half) else f" ± {self.half:.2f}"
        return f"{self.value:.2f}{half}"


def points(root: Path, setting: Setting) -> list[Point]:
    """The evaluations of a run, the start's first."""
    found, samples, seconds = [], 0.0, 0.0
    for row in read_numbers(root / setting.name):
        if row.iteration:
            samples += row.values.get("rollout/samples", _BATCH)
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
    if len(values) < 2:
        return Mean(float(np.mean(values)), float("nan"))
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return Mean(float(np.mean(values)), float(half))


def reached(run: Sequence[Point], column: str, value: float) -> Point | None:
    """The run where `column` first reached `value`, interpolated between evaluations."""
    for before, after in pairwise(run):
        low, high = getattr(before, column), getattr(after, column)
        if high >= value:
            share = 0.0 if low >= value else (value - low) / (high - low)
            first, last = before.row(), after.row()
            names = [field.name for field in fields(Point)]
            return Point(*(first[name] + share * (last[name] - first[name]) for name in names))
    return None


def best_rate(runs: dict[float, list[list[Point]]]) -> float:
    """The learning rate whose runs end at the highest mean gold."""
    return max(runs, key=lambda rate: mean([run[-1].gold for run in runs[rate]]).value)
