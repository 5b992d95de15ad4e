"""python -m experiments.tournament [--out FOLDER]: the tournaments, their table and figure."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from experiments.bench.table import table
from experiments.overoptimization.study import Paths, Size, draw_pool, make_pairs, train
from experiments.stories.commands import Commands
from experiments.tournament.picture import draw
from experiments.tournament.study import gaps, judge, measure, train_judge


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.tournament")
    parser.add_argument("--out", default="runs/tournament", help="where judge and rankings go")
    parser.add_argument(
        "--study", default="runs/overoptimization", help="where pairs, reward models and pool lie"
    )
    options = parser.parse_args()
    root, paths = Path(options.out).resolve(), Paths(Path(options.study).resolve())
    shared, commands = Commands(paths.root), Commands(root)
    make_pairs(paths, Size(), shared)
    train(paths, shared)
    draw_pool(paths, Size(), shared)
    train_judge(paths, root, commands)
    judge(paths, root, commands)
    rows = measure(paths, root)
    accuracies = {
        "judge": json.loads((root / "judge" / "result.json").read_text())["eval/accuracy"],
        "scalar": json.loads((paths.models / "bt_0_000" / "result.json").read_text())[
            "eval/accuracy"
        ],
    }
    apart = gaps(paths, root)
    found = {
        "accuracy": accuracies,
        "rows": [asdict(row) for row in rows],
        "scalar_less_knockout": [asdict(gap) for gap in apart],
    }
    (root / "results.json").write_text(json.dumps(found, indent=1))
    draw(rows, root / "tournament.png")
    print("accuracy on held-out pairs:", accuracies)
    cells = [[r.way, r.entrants, r.passes, f"{r.gold:.2f} ± {r.half:.2f}"] for r in rows]
    print(table(["chosen by", "responses", "passes", "gold"], cells))
    cells = [[g.entrants, g.equal, f"{g.gold:+.3f} ± {g.half:.3f}"] for g in apart]
    print(table(["knockout among", "scalar with as many", "scalar - knockout"], cells))
    print(f"{sum(commands.seconds().values()) / 60:.0f} minutes; {root}")


if __name__ == "__main__":
    main()
