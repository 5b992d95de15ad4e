"""python -m experiments.overoptimization [--out FOLDER]: the study, its tables and its figure."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from experiments.bench.table import table
from experiments.overoptimization.measure import measure
from experiments.overoptimization.picture import draw
from experiments.overoptimization.study import (
    FLIPPED,
    PROXIES,
    Paths,
    Size,
    draw_pool,
    iterate,
    make_pairs,
    train,
)
from experiments.stories.commands import Commands

_HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.overoptimization")
    parser.add_argument("--out", default="runs/overoptimization", help="where everything goes")
    for field in fields(Size):
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, type=int, default=field.default)
    options = parser.parse_args()
    size = Size(**{field.name: getattr(options, field.name) for field in fields(Size)})
    paths = Paths(Path(options.out).resolve())
    commands = Commands(paths.root)
    make_pairs(paths, size, commands)
    train(paths, commands)
    draw_pool(paths, size, commands)
    iterate(paths, size, commands)
    found = measure(paths)
    (paths.root / "results.json").write_text(json.dumps(found, indent=1))
    draw(found, paths.root / "overoptimization.png")
    print(_best_of_n_table(found), _raft_table(found), sep="\n\n")
    minutes = sum(commands.seconds().values()) / 60  # some of them ran side by side
    print(f"\n{minutes:.0f} minutes of commands; {paths.root}")


def _best_of_n_table(found: dict[str, Any]) -> str:
    shown = (1, 4, 16, 64, 256)
    rows = []
    for name, points in _curves(found, "best_of_n"):
        by_n = {point["at"]: point for point in points}
        rows.append([name, *(_gold(by_n[n]) if n in by_n else None for n in shown)])
    return table(["gold of the best of n by", *(f"n = {n}" for n in shown)], rows)


def _raft_table(found: dict[str, Any]) -> str:
    rows = []
    for name, points in _curves(found, "raft"):
        best = max(points, key=lambda point: point["gold"])
        last = points[-1]
        rows.append(
            [name, _gold(points[0]), f"{_gold(best)} at {best['at']}", _gold(last),
             f"{last['proxy']:.2f}", f"{last['kl']:.1f}"]
        )  # fmt: skip
    header = ["RAFT against", "gold at the start", "at its peak", "at the end", "proxy", "KL"]
    return table(header, rows)


def _curves(found: dict[str, Any], way: str) -> list[tuple[str, list[dict[str, Any]]]]:
    curves = [
        (f"{proxy}, {flipped:.0%} wrong", found[f"{proxy}_{noise}"][way])
        for noise, flipped in FLIPPED.items()
        for proxy in PROXIES
    ]
    if way == "best_of_n":
        curves.append(("gold itself", found["gold"][way]))
    return [(name, points) for name, points in curves if points]


def _gold(point: dict[str, float]) -> str:
    half = (point["gold_high"] - point["gold_low"]) / 2
    return f"{point['gold']:.2f} ± {half:.2f}"


if __name__ == "__main__":
    main()
