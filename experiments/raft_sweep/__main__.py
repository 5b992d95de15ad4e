"""python -m experiments.raft_sweep [--out FOLDER]: the runs, their table and their figure."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from experiments.bench.table import table
from experiments.overoptimization.measure import best_of_n_points, read_pool, scale_of
from experiments.overoptimization.study import Paths, Size
from experiments.raft_sweep.picture import draw
from experiments.raft_sweep.study import LABELS, RUNS, prepare, run_all
from experiments.stories.commands import Commands
from raft.runs.metrics import read_numbers


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.raft_sweep")
    parser.add_argument("--out", default="runs/raft_sweep", help="where the runs go")
    parser.add_argument(
        "--study", default="runs/overoptimization", help="where pairs and reward models lie"
    )
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    root, paths = Path(options.out).resolve(), Paths(Path(options.study).resolve())
    prepare(paths, Size())
    commands = Commands(root)
    run_all(paths, root, options.iterations, options.seeds, commands)
    found = {
        "runs": {name: _points(root / f"{name}_0") for name in RUNS},
        "best_of_n": [
            {"at": p.at, "kl": p.kl, "gold": p.gold}
            for p in best_of_n_points(
                read_pool(paths), "bt", "000", scale_of(paths, "bt", "000")
            )
        ],
    }  # fmt: skip
    (root / "results.json").write_text(json.dumps(found, indent=1))
    draw(found, root / "raft_sweep.png")
    print(_table(found, commands.seconds()))


def _points(folder: Path) -> list[dict[str, float]]:
    """Return one point per evaluation of the run in `folder`."""
    names = {
        "at": "iteration",
        "kl": "eval/kl_k1",
        "proxy": "eval/reward_mean",
        "gold": "eval/gold_mean",
        "gold_ci95": "eval/gold_ci95",
        "distinct_2": "eval/distinct_2",
    }
    return [{name: row[key] for name, key in names.items()} for row in read_numbers(folder)]


def _table(found: dict[str, Any], seconds: dict[str, float]) -> str:
    rows = []
    for name, points in found["runs"].items():
        first, last = points[0], points[-1]
        rows.append(
            [LABELS[name], f"{last['proxy']:.2f}", f"{last['gold']:.2f} ± {last['gold_ci95']:.2f}",
             f"{last['kl']:.1f}", f"{first['distinct_2']:.2f} → {last['distinct_2']:.2f}",
             f"{seconds.get(f'{name}_0', 0):.0f}"]
        )  # fmt: skip
    header = ["run", "held-out proxy", "gold", "KL", "distinct-2", "seconds"]
    return table(header, rows)


if __name__ == "__main__":
    main()
