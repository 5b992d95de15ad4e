"""Missing and damaged parts of a run, which its report cannot show.

Each is named once in the log and once at the top of the page; none stops the report.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from raft.report.page import Guard, Stop
from raft.report.samples import json_rows
from raft.runs.metrics import Numbers, read_numbers
from rollout.errors import InputError
from rollout.storage.files import read_json

__all__ = [
    "find_gaps",
    "iteration_numbers",
    "read_guards",
    "read_valid_metrics",
]


def read_valid_metrics(run: Path, on_damage: Callable[[str], None]) -> list[Numbers]:
    """Return the numbers of each iteration; [] without metrics.jsonl. Damaged rows are skipped."""
    try:
        rows = read_numbers(
            run, on_damage=lambda text: on_damage(text.replace(f"{run}/", "", 1) + " (skipped)")
        )
    except InputError:
        on_damage("metrics.jsonl is missing: there are no curves")
        return []
    return [row for row in rows if row.iteration >= 0]


def read_guards(run: Path, on_damage: Callable[[str], None]) -> tuple[list[Guard], Stop | None]:
    """Return the guards that fired, and why the run was stopped; [] and None in most runs."""
    fired = []
    if (run / "guards.jsonl").exists():
        rows = json_rows(run / "guards.jsonl", "guards.jsonl", on_damage)
        fired = [_verdict(row) for row in rows]
    return fired, _stopped(run / "stopped.json", on_damage)


def iteration_numbers(run: Path, metrics: list[Numbers]) -> list[int]:
    """Return the iterations that have a folder or a row of metrics, and all before them.

    Where most of those before have neither, a number is damaged, and they are skipped.
    """
    folders = {
        int(path.name)
        for path in (run / "iterations").glob("*")
        if path.is_dir() and path.name.isdecimal()
    }
    last = max(folders | {row.iteration for row in metrics}, default=-1)
    # a damaged number must not lead to a million notices
    known = sorted(folders | {row.iteration for row in metrics})
    return list(range(last + 1)) if last <= 2 * len(known) + 10 else known


def find_gaps(
    run: Path,
    iterations: list[int],
    metrics: list[Numbers],
    config: Mapping[str, object],
    stopped: bool,
) -> list[str]:
    """Return a line for all iterations that lack the same, and one if the run is not finished."""
    rows = {row.iteration: row.values for row in metrics}
    planned, every = config.get("iterations"), _every(config)
    alike: dict[str, list[int]] = {}
    for iteration in iterations:
        due = iteration % every == 0 or iteration == planned
        if lacking := _lacking(run, iteration, rows.get(iteration, {}), due):
            alike.setdefault(", ".join(lacking), []).append(iteration)
    found = [f"{_named(those)}: {what}" for what, those in alike.items()]
    done = max((row.iteration for row in metrics if _trained(row.values)), default=0)
    if isinstance(planned, int) and done < planned and not stopped:
        found.append(
            f"the run is not over: {done} of {planned} iterations are finished; make the report "
            "again when it is"
        )
    return found


def _stopped(path: Path, on_damage: Callable[[str], None]) -> Stop | None:
    try:
        found = read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        on_damage("stopped.json cannot be read: the run was stopped, but not why")
        found = {}
    return Stop(
        **_verdict(found),
        best_iteration=_whole(found.get("best_iteration")),
        checkpoint=str(found.get("checkpoint") or ""),
    )


def _verdict(row: Mapping[str, object]) -> Guard:
    return Guard(
        iteration=_whole(row.get("iteration")),
        guard=str(row.get("guard", "")),
        message=str(row.get("message", "")),
        stops=row.get("stops") is True,
    )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _named(iterations: list[int]) -> str:
    """Return [3] as "iteration 3", [3, 4, 5, 8] as "iterations 3–5, 8"."""
    spans: list[list[int]] = []
    for number in iterations:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    texts = [str(low) if low == high else f"{low}–{high}" for low, high in spans]
    return f"iteration{'s' if len(iterations) > 1 else ''} {', '.join(texts)}"


def _lacking(run: Path, iteration: int, row: Mapping[str, float], eval_due: bool) -> list[str]:
    folder = run / "iterations" / f"{iteration:03d}"
    if not folder.is_dir():
        return ["no folder, so no samples"]
    lacking = []
    if iteration > 0:
        lacking += _file(folder, "rollouts", "rollouts")
        if (folder / "rollouts.jsonl").exists() and not (folder / "selected.jsonl").exists():
            lacking.append("no selected.jsonl, so selected responses are not marked")
        if not _trained(row):
            lacking.append("no metrics of its training")
    if eval_due:
        lacking += _file(folder, "eval", "held-out samples")
        if not any(key.startswith("eval/") for key in row):
            lacking.append("no metrics of its evaluation")
    return lacking


def _file(folder: Path, name: str, what: str) -> list[str]:
    if (folder / f"{name}.jsonl").is_file():
        return []
    if (folder / f".{name}.samples").exists():
        return [f"{what} not finished, so not shown"]
    return [f"no {name}.jsonl, so no {what}"]


def _trained(row: Mapping[str, float]) -> bool:
    return any(key.startswith(("train/", "select/", "rollout/")) for key in row)


def _every(config: Mapping[str, object]) -> int:
    """Return how many iterations lie between evaluations; 1 where the config does not say.

    Where the run decides itself (null), the number is so large that only the ends are due.
    """
    section = config.get("eval")
    every = section.get("every") if isinstance(section, dict) else None
    if isinstance(section, dict) and "every" in section and every is None:
        return sys.maxsize
    return every if isinstance(every, int) and every > 0 else 1


log = logging.getLogger("raft.report")


class Notices:
    """Notices in the order in which they were added, each once; a new one is also logged."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, text: str) -> None:
        if text not in self.texts:
            self.texts.append(text)
            log.warning(text)
