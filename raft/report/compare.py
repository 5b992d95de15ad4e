"""Runs that a page compares with its own: their curves, headlines, settings and samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from raft.report import problems, summary
from raft.report.page import Fact, FactGroup, Headline, PagePanel
from raft.report.samples import Stage, find_stages
from raft.runs.metrics import Numbers

__all__ = ["Other", "differences", "headlines", "merged", "panels", "read_others"]

_DASHES = (":", "--", "-.")
_PHASES = {"eval": "held-out prompts", "rollouts": "training rollouts"}


@dataclass(frozen=True)
class Other:
    """A run that is compared with the page's own; `mark` distinguishes its stages from those."""

    title: str
    mark: str
    config: Mapping[str, object]
    metrics: list[Numbers]
    stages: list[Stage]

    def key(self, key: str) -> str:
        """Return the name of a metric of this run in rows that hold metrics of several runs."""
        return f"{self.title}: {key}"

    def phases(self) -> dict[str, str]:
        """Return the names of this run's phases on the page, by phase and mark."""
        return {f"{one}{self.mark}": f"{name} of {self.title}" for one, name in _PHASES.items()}


def read_others(runs: Sequence[Path], first: str, on_damage: Callable[[str], None]) -> list[Other]:
    """Return what the page shows of `runs`; a title that is taken, as by `first`, gets a number."""
    found: list[Other] = []
    taken = [first]
    for number, run in enumerate(runs, start=1):
        name = run.resolve().name
        title = name if name not in taken else f"{name} ({number + 1})"
        taken.append(title)

        def told(text: str, title: str = title) -> None:
            on_damage(f"{title}: {text}")

        metrics = problems.read_valid_metrics(run, told)
        stages = find_stages(run, problems.iteration_numbers(run, metrics))
        mark = f"@{number}"
        marked = [replace(one, run=mark, name=f"{title}/{one.name}") for one in stages]
        found.append(Other(title, mark, summary.read_config(run, told), metrics, marked))
    return found


def merged(metrics: list[Numbers], others: Sequence[Other]) -> list[dict[str, float]]:
    """Return a row per iteration with the metrics of all runs."""
    rows = {row.iteration: dict(row.values) for row in metrics}
    for other in others:
        for row in other.metrics:
            into = rows.setdefault(row.iteration, {"iteration": float(row.iteration)})
            into |= {other.key(key): value for key, value in row.values.items()
                     if key != "iteration"}  # fmt: skip
    return [rows[iteration] for iteration in sorted(rows)]


def panels(metrics: list[Numbers], others: Sequence[Other]) -> list[PagePanel]:
    """Return the panels of the first run with the lines of the others, dotted or dashed."""
    found = summary.panels(metrics)
    by_title = {panel["title"]: panel for panel in found}
    for number, other in enumerate(others):
        for panel in summary.panels(other.metrics):
            lines = panel["lines"]
            for line in lines:
                interval = line["interval"]
                line["key"] = other.key(line["key"])
                line["interval"] = None if interval is None else other.key(interval)
                line["label"] = f"{other.title}: {line['label']}"
                line["dash"] = _DASHES[number % len(_DASHES)]
            if panel["title"] in by_title:
                by_title[panel["title"]]["lines"] += lines
            else:
                by_title[panel["title"]] = panel
                found.append(panel)
    return found


def headlines(others: Sequence[Other]) -> list[Headline]:
    """Return the other runs' numbers for the top of the page."""
    return [
        {**one, "label": f"{one['label']} of {other.title}"}
        for other in others
        for one in summary.headline(other.metrics, other.config.get("iterations"))
    ]


def differences(
    title: str, config: Mapping[str, object], others: Sequence[Other]
) -> list[FactGroup]:
    """Return the settings that are not the same in all runs, except run_dir; [] without others."""
    if not others:
        return []
    every = [(title, _flat(config)), *((one.title, _flat(one.config)) for one in others)]
    keys = dict.fromkeys(key for _, flat in every for key in flat if key != "run_dir")
    rows: list[Fact] = []
    for key in keys:
        values = [(name, flat.get(key, "default")) for name, flat in every]
        if len({value for _, value in values}) > 1:
            rows.append((key, " | ".join(f"{name}: {value}" for name, value in values)))
    return [FactGroup(title="Settings that differ", rows=rows or [("all", "the same")])]


def _flat(config: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            found[prefix + key] = str(value)
    return found
