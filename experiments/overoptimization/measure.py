"""The numbers of the study: gold and proxy against KL, by best-of-n and along RAFT iterations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from experiments.overoptimization.study import FLIPPED, MEMBERS, MODELS, PROXIES, Paths
from raft.bon.estimate import best_of_n_curve
from raft.runs.metrics import read_numbers

__all__ = ["Point", "best_of_n_points", "iteration_points", "measure", "read_pool", "scale_of"]

NS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


@dataclass(frozen=True)
class Point:
    """One point of a curve: `at` is n, or the iteration; `kl` is in nats.

    `proxy` is in units of its spread on the starting policy's samples, from their mean. `gold_low`
    and `gold_high` are the ends of gold's 95 % interval.
    """

    at: int
    kl: float
    proxy: float
    gold: float
    gold_low: float
    gold_high: float


def measure(paths: Paths) -> dict[str, Any]:
    """Return accuracies and curves by `PROXY_LABELS`, and gold's own, for figure and tables."""
    pool = read_pool(paths)
    found: dict[str, Any] = {}
    for noise in FLIPPED:
        for proxy in PROXIES:
            scale = scale_of(paths, proxy, noise)
            found[f"{proxy}_{noise}"] = {
                "accuracy": _accuracy(paths, proxy, noise),
                "best_of_n": [asdict(p) for p in best_of_n_points(pool, proxy, noise, scale)],
                "raft": [asdict(p) for p in iteration_points(paths, proxy, noise, scale)],
            }
    found["gold"] = {"best_of_n": [asdict(p) for p in _points(pool["gold"], pool["gold"], (0, 1))]}
    return found


def best_of_n_points(
    pool: dict[str, np.ndarray], proxy: str, noise: str, scale: tuple[float, float]
) -> list[Point]:
    """Return the best of n by the proxy for each n, in expectation over all subsets of the pool."""
    return _points(_proxy_scores(pool, proxy, noise), pool["gold"], scale)


def iteration_points(
    paths: Paths, proxy: str, noise: str, scale: tuple[float, float]
) -> list[Point]:
    """Return one point per evaluation of the RAFT run; [] where it has not begun."""
    folder = paths.run(proxy, noise)
    if not (folder / "metrics.jsonl").exists():
        return []
    mean, std = scale
    return [
        Point(
            row.iteration,
            row["eval/kl_k1"],
            (row["eval/reward_mean"] - mean) / std,
            row["eval/gold_mean"],
            row["eval/gold_mean"] - row["eval/gold_ci95"],
            row["eval/gold_mean"] + row["eval/gold_ci95"],
        )
        for row in read_numbers(folder)
        if "eval/gold_mean" in row
    ]


def _points(scores_PN: np.ndarray, gold_PN: np.ndarray, scale: tuple[float, float]) -> list[Point]:
    mean, std = scale
    ns = [n for n in NS if n <= scores_PN.shape[1]]
    curve = best_of_n_curve(scores_PN, ns, gold_PN)
    rows: list[Any] = curve.rows()
    return [
        Point(
            row["n"],
            row["kl"],
            (row["proxy"]["mean"] - mean) / std,
            row["gold"]["mean"],
            row["gold"]["low"],
            row["gold"]["high"],
        )
        for row in rows
    ]


def _proxy_scores(pool: dict[str, np.ndarray], proxy: str, noise: str) -> np.ndarray:
    """Return the proxy's scores (P, N), where `pool` holds those of the models.

    Members of an ensemble are scaled to mean 0 and spread 1 first, as in its YAML file.
    """
    if proxy in ("bt", "grm"):
        return pool[f"{_member(proxy)}_{noise}"]
    members = [pool[f"{member}_{noise}"] for member in MEMBERS]
    scaled_MPN = np.stack([(one - one_mean) / std for one, (one_mean, std) in
                           zip(members, _scales(pool, noise), strict=True)])  # fmt: skip
    return scaled_MPN.mean(axis=0) if proxy == "mean" else scaled_MPN.min(axis=0)


def _scales(pool: dict[str, np.ndarray], noise: str) -> Sequence[np.ndarray]:
    return [pool[f"scale_{member}_{noise}"] for member in MEMBERS]


def scale_of(paths: Paths, proxy: str, noise: str) -> tuple[float, float]:
    """Return mean and spread of the proxy on the samples that set the scale."""
    if proxy in ("bt", "grm"):
        mean, std = _moments(paths, f"{_member(proxy)}_{noise}")
        return mean, std
    samples = {f"{m}_{noise}": _scored(paths, f"{m}_{noise}") for m in MEMBERS}
    for member in MEMBERS:
        samples[f"scale_{member}_{noise}"] = np.array(_moments(paths, f"{member}_{noise}"))
    reduced = _proxy_scores(samples, proxy, noise)
    return float(reduced.mean()), float(reduced.std())


def _moments(paths: Paths, name: str) -> tuple[float, float]:
    scores = _scored(paths, name)
    return float(scores.mean()), float(scores.std())


def _scored(paths: Paths, name: str) -> np.ndarray:
    with open(paths.models / f"{name}.scored.jsonl", encoding="utf-8") as lines:
        return np.array([json.loads(line)["scores"] for line in lines], dtype=np.float64)


def read_pool(paths: Paths) -> dict[str, np.ndarray]:
    """Return (P, N) scores by column, and the scales of the ensemble's members."""
    pool = {column: _pool_scores(paths, column) for column in ("gold", *MODELS)}
    for noise in FLIPPED:
        for member in MEMBERS:
            pool[f"scale_{member}_{noise}"] = np.array(_moments(paths, f"{member}_{noise}"))
    return pool


def _pool_scores(paths: Paths, column: str) -> np.ndarray:
    with open(paths.pool(column), encoding="utf-8") as lines:
        scores = [json.loads(line)[f"{column}_scores"] for line in lines]
    return np.array(scores, dtype=np.float64)


def _accuracy(paths: Paths, proxy: str, noise: str) -> float | None:
    """Return the accuracy of a single model on clean held-out pairs; None for an ensemble."""
    if proxy not in ("bt", "grm"):
        return None
    folder = paths.models / f"{_member(proxy)}_{noise}"
    return json.loads((folder / "result.json").read_text())["eval/accuracy"]


def _member(proxy: str) -> str:
    return "bt_0" if proxy == "bt" else proxy
