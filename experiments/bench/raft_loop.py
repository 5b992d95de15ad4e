"""One RAFT job three ways: the toolkit, a bare script on the same stack, TRL's GRPOTrainer.

The toolkit's other updates are variants too, by their names; `NAME@RATE` runs one at a learning
rate of its own. Prints held-out reward (gold, with --reward-model) against seconds and samples, and
what the way to the same reward took, as ratios to the bare script. Zero is the end of the first
evaluation: start-up is not measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from experiments.bench.job import Job, add_sizes, save, sizes
from experiments.bench.table import run_module, spread, table

# (seconds, held-out reward, distinct_2, samples drawn), first at 0
Run = list[tuple[float, float, float, int]]

UPDATES = ("weighted", "raft_plus_plus", "reinforce", "dpo")
VARIANTS = {
    "toolkit": "experiments.bench.toolkit_raft",
    "bare": "experiments.bench.bare_raft",
    "grpo": "experiments.bench.grpo",
    **dict.fromkeys(UPDATES, "experiments.bench.toolkit_raft"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    folder = Path(options.folder or tempfile.mkdtemp(prefix="raft-bench-"))
    job = Job(**sizes(options))
    runs = measure(job, options.variants, options.repeats, folder)
    result = summary(runs, options.target, job.prompts * job.k)
    if options.json:
        print(json.dumps(result))
    else:
        print(report(runs, result))


def measure(job: Job, variants: Sequence[str], repeats: int, folder: Path) -> dict[str, list[Run]]:
    """Run every variant once per repeat, in turn, each repeat with a seed of its own."""
    runs: dict[str, list[Run]] = {variant: [] for variant in variants}
    for repeat in range(repeats):
        # the first to run must not always be the same
        order = list(variants) if repeat % 2 == 0 else list(variants)[::-1]
        for variant in order:
            name, _, rate = variant.partition("@")
            own = replace(
                job,
                folder=str(folder / f"{variant}-{repeat}"),
                seed=job.seed + repeat,
                update=name if name in UPDATES else job.update,
                learning_rate=float(rate) if rate else job.learning_rate,
            )
            print(f"{variant}, repeat {repeat + 1} of {repeats}", file=sys.stderr, flush=True)
            runs[variant].append(_run(VARIANTS[name], own))
    return runs


def summary(runs: dict[str, list[Run]], target: float, samples: int) -> dict[str, Any]:
    """Return seconds and samples per variant, and ratios of each repeat to its bare run."""
    both = best_all_reach(runs)
    found: dict[str, Any] = {"target": target, "reward_all_reach": both, "variants": {}}
    for variant, own in runs.items():
        found["variants"][variant] = {
            "points": own,
            "seconds_per_iteration": [per_iteration(run, samples) for run in own],
            "seconds_to_target": [seconds_to(run, target) for run in own],
            "samples_to_target": [samples_to(run, target) for run in own],
            "distinct_2_at_target": [distinct_2_at(run, target) for run in own],
            "seconds_to_reward_all_reach": [seconds_to(run, both) for run in own],
        }
    bare = found["variants"].get("bare")
    for measured in found["variants"].values() if bare else ():
        measured["ratios"] = {
            key: _ratios(measured[key], bare[key])
            for key in (
                "seconds_per_iteration",
                "seconds_to_target",
                "samples_to_target",
                "seconds_to_reward_all_reach",
            )
        }
    return found


def seconds_to(run: Run, reward: float) -> float | None:
    """Return the time when the run first reached `reward`, interpolated; None if never."""
    return _at(run, reward, 0)


def samples_to(run: Run, reward: float) -> float | None:
    return _at(run, reward, 3)


def distinct_2_at(run: Run, reward: float) -> float | None:
    return _at(run, reward, 2)


def _at(run: Run, reward: float, column: int) -> float | None:
    found = crossing([point[1] for point in run], reward)
    if found is None:
        return None
    at, share = found
    return run[at][column] + share * (run[at + 1][column] - run[at][column])


def crossing(values: Sequence[float], target: float) -> tuple[int, float] | None:
    """Return where `values` first reach `target`; None if never.

    The result is the place of the value before, and the share of the way to the next one.
    """
    for at, (low, high) in enumerate(pairwise(values)):
        if high >= target:
            return at, 0.0 if low >= target else (target - low) / (high - low)
    return None


def per_iteration(run: Run, samples: int) -> float:
    """Return the median seconds of an iteration of so many samples, evaluation included."""
    return median((b[0] - a[0]) * samples / (b[3] - a[3]) for a, b in pairwise(run))


def best_all_reach(runs: dict[str, list[Run]]) -> float:
    return min(max(point[1] for point in run) for own in runs.values() for run in own)


def report(runs: dict[str, list[Run]], result: dict[str, Any]) -> str:
    points = [
        [variant, samples, f"{seconds:.1f}", f"{reward:.2f}", f"{distinct:.3f}"]
        for variant, (run, *_) in runs.items()
        for seconds, reward, distinct, samples in run
    ]
    lines = [
        "first repeat:",
        table(("variant", "samples", "seconds", "reward", "distinct_2"), points),
        "",
    ]
    rows = []
    for variant, found in result["variants"].items():
        for key in (
            "seconds_per_iteration", "seconds_to_target", "samples_to_target",
            "distinct_2_at_target", "seconds_to_reward_all_reach",
        ):  # fmt: skip
            measured = [value for value in found[key] if value is not None]
            ratios = found.get("ratios", {}).get(key, [])
            rows.append([variant, key, spread(measured), spread(ratios)])
    header = ("variant", "what", "median (range)", "ratio to bare: median (range)")
    target, both = result["target"], result["reward_all_reach"]
    lines += [table(header, rows), f"target {target:g}; the reward that all reach: {both:.2f}"]
    lines.append("a high reward with a low distinct_2 is one word said over and over")
    lines.append("required: toolkit at most 1.5 times bare; seconds hold for this machine only")
    return "\n".join(lines)


def _run(program: str, job: Job) -> Run:
    path = save(job)
    run_module(program, ["--job", str(path)], Path(job.folder) / "log.txt")
    points = json.loads((Path(job.folder) / "points.json").read_text())
    return [(seconds, reward, distinct, samples) for seconds, reward, distinct, samples in points]


def _ratios(measured: list[float | None], bare: list[float | None]) -> list[float]:
    pairs = zip(measured, bare, strict=False)
    return [own / other for own, other in pairs if own is not None and other]


def _variant(text: str) -> str:
    name, _, rate = text.partition("@")
    if name not in VARIANTS or (rate and not float(rate) > 0):
        raise ValueError(text)
    return text


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.raft_loop", description=__doc__
    )
    default = ["toolkit", "bare", "grpo"]
    parser.add_argument("--variants", nargs="+", type=_variant, default=default)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="keep run folders and logs here (default: temporary)")
    parser.add_argument("--json", action="store_true")
    add_sizes(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
