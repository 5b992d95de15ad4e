"""Time shares of the stages of a run's iterations, and of the rest.

Reads the metrics.jsonl of a run folder, or makes a run first. Required: sync below 1 %, the rest
below 10 %.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from experiments.bench.table import table

STAGES = {
    "generate": "time/generate",
    "score": "time/score",
    "train": "time/train",
    "evaluate": "time/eval",
    "sync": "time/sync",
}
# parts of the stages or of the rest, which are shown but not added up
PARTS = {
    "rest: select": "time/select",
    "score: workers' own, beside drawing": "time/score_busy",
}
LIMITS = {"sync": 0.01, "rest": 0.10}
_CONFIG = Path(__file__).parents[2] / "configs" / "stories_cpu.yaml"


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    folder = Path(options.run) if options.run else _make_run(options.config, options.set)
    found = measure(folder)
    print(json.dumps(found) if options.json else report(found))


def measure(folder: Path) -> dict[str, Any]:
    """Return the shares of each whole iteration, and their medians."""
    from raft.runs.metrics import read_numbers

    rows = [row.values for row in read_numbers(folder) if row.iteration > 0 and _whole(row.values)]
    if not rows:
        raise SystemExit(f"{folder}: no iteration was trained and evaluated in one go")
    each = [shares(row) for row in rows]
    return {
        "run": str(folder),
        "iterations": [row["iteration"] for row in rows],
        "seconds": [row["time/iteration"] for row in rows],
        "each": each,
        "median": {key: median(one[key] for one in each) for key in each[0]},
    }


def shares(row: dict[str, float]) -> dict[str, float]:
    """Return shares: stages and `rest` add up to 1; PARTS are within stages or parallel to them."""
    total = row["time/iteration"]
    found = {name: row[key] / total for name, key in STAGES.items()}
    found["rest"] = 1.0 - sum(found.values())
    found |= {name: row.get(key, 0.0) / total for name, key in PARTS.items()}
    outside = row["time/train"] - row.get("train/seconds", row["time/train"])
    return found | {"train: outside the update": outside / total}


def report(found: dict[str, Any]) -> str:
    rows = []
    for name, share in found["median"].items():
        limit = LIMITS.get(name)
        worst = max(one[name] for one in found["each"])
        wanted = f"< {limit:.0%}" if limit else ""
        rows.append([name, f"{share:.2%}", f"{worst:.2%}", wanted])
    header = ("share of an iteration", "median", "largest", "required")
    count, seconds = len(found["iterations"]), median(found["seconds"])
    return f"{table(header, rows)}\n{count} iterations, median {seconds:.1f} s"


def _whole(row: dict[str, float]) -> bool:
    """Tell whether one process did the whole iteration: a resumed one lacks times of stages."""
    keys = ("time/iteration", *STAGES.values())
    stages = sum(row.get(key, 0.0) for key in STAGES.values())
    return all(key in row for key in keys) and 0 < stages <= row["time/iteration"]


def _make_run(config: str, overrides: Sequence[str]) -> Path:
    from raft import load_config, run

    folder = tempfile.mkdtemp(prefix="raft-bench-")
    return run(load_config(config, [*overrides, f"run_dir={folder}/run"])).run_dir


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.overhead", description=__doc__
    )
    parser.add_argument("run", nargs="?", help="run folder (default: make a run)")
    parser.add_argument("--config", default=str(_CONFIG), help="what to run without a run folder")
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value", help="its overrides")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
