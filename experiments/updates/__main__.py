"""python -m experiments.updates [updates|batches]: the runs, their tables and their figure."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from experiments.bench.table import table
from experiments.overoptimization.study import Paths
from experiments.stories.commands import Commands
from experiments.updates.measure import Point, best_rate, mean, points, reached
from experiments.updates.picture import draw
from experiments.updates.study import GRIDS, REWARDS, Setting, all_settings, prepare, run_all

# reward -> variant -> learning rate -> seeds
Runs = dict[str, dict[str, dict[float, list[list[Point]]]]]
# reward -> (column, value) at which runs are compared in samples and in seconds
TARGETS = {"words": ("reward", 7.79), "learned": ("gold", 2.0)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.updates", description=__doc__)
    parser.add_argument("grid", nargs="?", choices=GRIDS, default="updates")
    parser.add_argument("--out", default="runs/updates", help="where the runs go")
    parser.add_argument(
        "--study", default="runs/overoptimization", help="where pairs and reward model lie"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rewards", nargs="+", choices=REWARDS, default=list(REWARDS))
    options = parser.parse_args()
    root, paths = Path(options.out).resolve(), Paths(Path(options.study).resolve())
    prepare(paths, Commands(paths.root))
    settings = list(all_settings(options.grid, options.rewards, options.seeds))
    run_all(paths, root, settings, Commands(root))
    runs = _points(root, settings)
    (root / f"{options.grid}.json").write_text(json.dumps(_plain(runs)))
    draw({reward: _at_best(runs[reward]) for reward in runs}, root / f"{options.grid}.png")
    for reward, variants in runs.items():
        print(f"{reward}:", _table(variants, *TARGETS[reward]), sep="\n", end="\n\n")


def _points(root: Path, settings: Sequence[Setting]) -> Runs:
    runs: Runs = {}
    for setting in settings:
        rates = runs.setdefault(setting.reward, {}).setdefault(setting.label, {})
        rates.setdefault(setting.rate, []).append(points(root, setting))
    return runs


def _table(variants: dict[str, dict[float, list[list[Point]]]], column: str, value: float) -> str:
    rows = []
    for variant, rates in variants.items():
        for rate, seeds in rates.items():
            ends = [run[-1] for run in seeds]
            there = [reached(run, column, value) for run in seeds]
            came = [point for point in there if point is not None]
            mark = " *" if rate == best_rate(rates) and len(rates) > 1 else ""
            rows.append(
                [f"{variant} {rate:g}{mark}", mean([p.reward for p in ends]),
                 mean([p.gold for p in ends]), mean([max(p.gold for p in run) for run in seeds]),
                 mean([p.kl for p in ends]), mean([p.distinct_2 for p in ends]),
                 f"{len(came)}/{len(there)}",
                 f"{mean([p.samples for p in came]).value:.0f}" if came else "-",
                 f"{mean([p.seconds for p in came]).value:.1f}" if came else "-",
                 mean([p.distinct_2 for p in came]) if came else "-"]
            )  # fmt: skip
    header = [
        "variant, rate", "reward", "gold", "highest gold", "KL", "distinct-2",
        f"{column} {value:g}", "samples", "seconds", "distinct-2 there",
    ]  # fmt: skip
    return table(header, rows)


def _at_best(variants: dict[str, dict[float, list[list[Point]]]]) -> dict[str, list[list[Point]]]:
    best = {variant: best_rate(rates) for variant, rates in variants.items()}
    return {f"{name}, {best[name]:g}": rates[best[name]] for name, rates in variants.items()}


def _plain(runs: Runs) -> object:
    return {
        reward: {
            variant: {f"{rate:g}": [[asdict(p) for p in run] for run in seeds]
                      for rate, seeds in rates.items()}
            for variant, rates in variants.items()
        }
        for reward, variants in runs.items()
    }  # fmt: skip


if __name__ == "__main__":
    main()
