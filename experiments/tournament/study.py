"""The commands of the study: train a judge on the pairs of the over-optimization study, then run
tournaments in groups of its pool. The scalar reward and the pool's gold are that study's, too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.overoptimization.study import Paths, policy
from experiments.stories.commands import Commands
from experiments.tournament.backbone import make_backbone
from raft.bon.estimate import expected_best_of_n
from rewards.evaluation.stats import mean_ci95

__all__ = ["SIZES", "Gap", "Row", "gaps", "judge", "measure", "train_judge"]

_CONFIG = Path(__file__).parent / "pairwise.yaml"
SIZES = (2, 4, 8, 16)
_PROMPTS, _SAMPLES = 64, 64
_SCALAR = "bt_0_000"


@dataclass(frozen=True)
class Row:
    """Mean gold of the selected responses, and half of its 95 % interval.

    `entrants` are the responses, `passes` the forward passes per prompt.
    """

    way: str
    entrants: int
    passes: int
    gold: float
    half: float


@dataclass(frozen=True)
class Gap:
    """Mean gold by the scalar reward minus that by a knockout of `entrants`, at equal `equal`.

    `equal` is "responses" or "passes"; `half` is half of a 95 % interval.
    """

    entrants: int
    equal: str
    gold: float
    half: float


def train_judge(paths: Paths, root: Path, commands: Commands) -> None:
    make_backbone(Path(policy()), root / "backbone")
    commands.raft(
        "train_judge", "train-reward", _CONFIG, f"run_dir={root / 'judge'}",
        environment={
            "BACKBONE": str(root / "backbone"),
            "PAIRS": str(paths.pairs("000")),
            "HELD_OUT": str(paths.pairs("test")),
        },
    )  # fmt: skip


def judge(paths: Paths, root: Path, commands: Commands) -> None:
    """Run knockouts in groups of each size, and round robins in the small ones."""
    for size in SIZES:
        groups = root / f"groups_{size}.jsonl"
        if not groups.exists():
            rows = _groups(paths.pool("gold"), size)
            groups.write_text("".join(json.dumps(row) + "\n" for row in rows))
        for method in ("knockout", "round_robin") if size <= 4 else ("knockout",):
            commands.raft(
                f"{method}_{size}", "rank", groups, "--judge", _judge_yaml(root),
                "--method", method, "--out", root / f"{method}_{size}.jsonl",
            )  # fmt: skip


def measure(paths: Paths, root: Path) -> list[Row]:
    """Return rows of the tournaments, and of the scalar reward at equal responses and passes."""
    scores_PN, gold_PN = (_scores(paths, column) for column in (_SCALAR, "gold"))
    found = []
    for size in SIZES:
        for method in ("knockout", "round_robin"):
            ranked = root / f"{method}_{size}.jsonl"
            if ranked.exists():
                passes = 2 * (size - 1) if method == "knockout" else size * (size - 1)
                found.append(_row(f"judge, {method}", size, passes, _chosen_gold(ranked)))
        for among in dict.fromkeys((size, 2 * (size - 1))):
            gold_P = expected_best_of_n(scores_PN, among, gold_PN)
            found.append(_row("scalar, best of n", among, among, gold_P))
    return found


def gaps(paths: Paths, root: Path) -> list[Gap]:
    """Return how much more gold the scalar reward selects than each knockout, paired by prompt.

    It selects among as many responses, and with as many forward passes.
    """
    scores_PN, gold_PN = (_scores(paths, column) for column in (_SCALAR, "gold"))
    found = []
    for size in SIZES:
        judged_P = _chosen_gold(root / f"knockout_{size}.jsonl")
        for equal, among in (("responses", size), ("passes", 2 * (size - 1))):
            scalar_P = expected_best_of_n(scores_PN, among, gold_PN)
            found.append(Gap(size, equal, *mean_ci95(scalar_P - judged_P)))
    return found


def _groups(pool: Path, size: int) -> list[dict[str, Any]]:
    """Return disjoint groups of a prompt's first samples."""
    rows = []
    with open(pool, encoding="utf-8") as lines:
        for line, _ in zip(lines, range(_PROMPTS), strict=False):
            row = json.loads(line)
            for start in range(0, _SAMPLES, size):
                stop = start + size
                rows.append(
                    {
                        "id": f"{row['id']}/{start}",
                        "prompt": row["prompt"],
                        "responses": row["responses"][start:stop],
                        "gold_scores": row["gold_scores"][start:stop],
                    }
                )
    return rows


def _judge_yaml(root: Path) -> Path:
    path = root / "judge.yaml"
    path.write_text(f"judge: {{kind: pairwise, model: {root / 'judge' / 'model'}}}\n")
    return path


def _scores(paths: Paths, column: str) -> np.ndarray:
    """Return the (P, N) values of the samples that enter the tournaments."""
    with open(paths.pool(column), encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(_PROMPTS), strict=False)]
    return np.array([row[f"{column}_scores"][:_SAMPLES] for row in rows])


def _chosen_gold(ranked: Path) -> np.ndarray:
    """Return the gold of the winners (P,), averaged over each prompt's groups."""
    by_prompt: dict[str, list[float]] = {}
    with open(ranked, encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            prompt = row["id"].rpartition("/")[0]
            by_prompt.setdefault(prompt, []).append(row["gold_scores"][row["best"]])
    return np.array([np.mean(values) for values in by_prompt.values()])


def _row(way: str, entrants: int, passes: int, gold_P: np.ndarray) -> Row:
    return Row(way, entrants, passes, *mean_ci95(gold_P))
