"""Read what is drawn of runs: settings, their metrics as series, and the marks of their monitor.

A setting is a run, or several runs that differ in their seed. Files that cannot be read are named
in a warning and skipped.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from raft.curves.panels import Line, Panel, interval_of
from raft.runs.metrics import Numbers, controls_of, read_numbers
from rewards.evaluation.stats import mean_ci95
from rollout.errors import InputError

__all__ = [
    "Mark",
    "Point",
    "Series",
    "Setting",
    "known_keys",
    "read_marks",
    "read_settings",
    "series_of",
]


@dataclass(frozen=True, slots=True)
class Mark:
    """An event of a run after `iteration`.

    `kind` is "guard" where a guard fired, "stopped" where the run was stopped, and "best" where the
    checkpoint of this iteration was kept as the best one.
    """

    kind: str
    iteration: int
    guard: str
    message: str


def read_marks(run_dir: Path, on_damage: Callable[[str], None]) -> list[Mark]:
    """Return the marks of a run's `guards.jsonl` and `stopped.json`; none where it has neither.

    Rows that cannot be read are skipped, and `on_damage` is called with a line that names each.
    """
    return [*_guards(run_dir / "guards.jsonl", on_damage), *_stop(run_dir, on_damage)]


def _guards(file: Path, on_damage: Callable[[str], None]) -> list[Mark]:
    if not file.is_file():
        return []
    found = []
    for line_number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if line.strip():
            row = _mapping(line, f"{file}:{line_number}", on_damage)
            found += [_mark("guard", row, "iteration")] if row else []
    return list(dict.fromkeys(found))


def _stop(run_dir: Path, on_damage: Callable[[str], None]) -> list[Mark]:
    file = run_dir / "stopped.json"
    if not file.is_file():
        return []
    row = _mapping(file.read_bytes(), str(file), on_damage)
    if row is None:
        return []
    found = [_mark("stopped", row, "iteration")]
    if isinstance(row.get("best_iteration"), int):
        found.append(_mark("best", row, "best_iteration"))
    return found


def _mapping(text: bytes, where: str, on_damage: Callable[[str], None]) -> dict[str, object] | None:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        row = None
    if isinstance(row, dict) and isinstance(row.get("iteration"), int):
        return row
    on_damage(f"{where}: is not a row of a guard; skipped")
    return None


def _mark(kind: str, row: Mapping[str, object], key: str) -> Mark:
    iteration = row[key]
    assert isinstance(iteration, int), "checked where the row was read"
    return Mark(kind, iteration, str(row.get("guard", "")), str(row.get("message", "")))


log = logging.getLogger("raft")


@dataclass(slots=True)
class Setting:
    """A label with the runs drawn under it: a single run, or runs that differ in their seed alone.

    Attributes:
        rows: for each run, the metrics of its iterations.
        marks: the marks of all its runs.
    """

    label: str
    paths: list[Path]
    rows: list[list[Numbers]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)


def read_settings(runs: Sequence[str | Path], labels: Sequence[str] | None = None) -> list[Setting]:
    """Read every run that can be read; the others are skipped with a warning.

    The controls of runs, which lie in the runs' folders, are added as settings of their own.

    Args:
        runs: run folders, or LABEL=RUN, or LABEL=RUN,RUN,… for several seeds of one setting.
        labels: one name for each of `runs`, in place of its label or folder name.

    Raises:
        InputError: no run is given or none can be read, or labels do not fit the runs.
    """
    settings = _parse(runs, labels)
    named = [path.absolute() for setting in settings for path in setting.paths]
    for setting in list(settings):
        if controls := [path for path in controls_of(setting.paths) if path not in named]:
            settings.append(Setting(f"{setting.label} control", controls))
    complaints: list[str] = []
    for setting in settings:
        for path in list(setting.paths):
            try:
                setting.rows.append(read_numbers(path, on_damage=complaints.append))
            except InputError as error:
                complaints.append(str(error))
                setting.paths.remove(path)
            else:
                setting.marks += read_marks(path, complaints.append)
    readable = [setting for setting in settings if any(setting.rows)]
    if not readable:
        raise InputError("curves", "; ".join(complaints) or _no_rows(settings))
    for complaint in complaints:
        log.warning("%s (skipped in the picture)", complaint)
    for setting in settings:
        if setting.paths and setting not in readable:
            log.warning("%s", _no_rows([setting]))
    return readable


def known_keys(settings: Iterable[Setting]) -> set[str]:
    """Return the keys that have a number in any row of any run."""
    rows = (row for setting in settings for run in setting.rows for row in run)
    return {key for row in rows for key in row.values}


def _parse(runs: Sequence[str | Path], labels: Sequence[str] | None) -> list[Setting]:
    if not runs:
        raise InputError("curves", "no run is given", "name one run folder or more")
    given = [_split(run) for run in runs]
    if labels and len(labels) != len(given):
        raise InputError(
            "--labels", f"has {len(labels)} labels for {len(given)} runs", "give one for each run"
        )
    if labels:
        names = list(labels)
    else:
        folders = _folder_names([paths[0] for label, paths in given if label is None])
        names = [folders[paths[0]] if label is None else label for label, paths in given]
    merged: dict[str, Setting] = {}
    for name, (_, paths) in zip(names, given, strict=True):
        known = merged.setdefault(name, Setting(name, []))
        if known.paths and not _same(known.paths, paths):
            raise InputError(name, "is the label of two settings", "give each its own label")
        known.paths = paths
    return list(merged.values())


def _split(run: str | Path) -> tuple[str | None, list[Path]]:
    text = str(run)
    at = _equals_sign(text)
    # a folder's name may have an equals sign: lr=1e-5
    if isinstance(run, Path) or at < 0 or "/" in text[:at] or Path(text).exists():
        return None, [Path(run)]
    label, found = text[:at].strip(), [Path(path) for path in text[at + 1 :].split(",") if path]
    if not label or not found:
        raise InputError(
            text, "names no run", "give LABEL=RUN, or LABEL=RUN,RUN for seeds of one setting"
        )
    for path, count in Counter(map(os.path.abspath, found)).items():
        if count > 1:
            raise InputError(text, f"names {path} {count} times", "name each run once")
    return label, found


def _equals_sign(text: str) -> int:
    """Return the place of the sign that ends the label in LABEL=RUN,…; −1 without any sign.

    Labels and folders may have equals signs too (K=8=runs/k8): it is the first after which all
    folders exist, or else the first.
    """
    places = [place for place, character in enumerate(text) if character == "="]
    for place in places:
        if all(Path(path).exists() for path in text[place + 1 :].split(",")):
            return place
    return places[0] if places else -1


def _folder_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Return a label for each folder: its name, or where two have the same name its path.

    The path is below the folder that all of them have in common.
    """
    if not paths:
        return {}
    full = {path: Path(os.path.abspath(path)) for path in paths}
    times = Counter(folder.name for folder in set(full.values()))
    above = os.path.commonpath([folder.parent for folder in full.values()])
    return {
        path: folder.name if times[folder.name] == 1 else str(folder.relative_to(above))
        for path, folder in full.items()
    }


def _same(first: Sequence[Path], second: Sequence[Path]) -> bool:
    return list(map(os.path.abspath, first)) == list(map(os.path.abspath, second))


def _no_rows(settings: Sequence[Setting]) -> str:
    names = ", ".join(str(path / "metrics.jsonl") for one in settings for path in one.paths)
    return f"{names}: no rows yet; run until the first evaluation"


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a line. `half` is half the width of its 95 % interval, NaN where there is none.

    The interval of one run is its own, over prompts; that of several is Student's, over the values
    of the runs.
    """

    iteration: int
    x: float
    value: float
    half: float
    runs: int


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a panel for one setting, its points in the order of iterations."""

    setting: Setting
    line: Line
    points: tuple[Point, ...]

    @property
    def runs(self) -> int:
        """Return how many of the setting's runs the line is a mean over."""
        return self.points[0].runs

    @property
    def has_interval(self) -> bool:
        return any(math.isfinite(point.half) for point in self.points)


def series_of(setting: Setting, panel: Panel, x: str) -> list[Series]:
    """Return the lines of a panel for which the setting has points, against the key `x`.

    The list is empty where only lines that are details have points.
    """
    found = [Series(setting, line, tuple(_points(setting, line.metric, x))) for line in panel.lines]
    found = [series for series in found if series.points]
    if all(series.line.detail for series in found):
        return []
    return [_from_start(series) for series in found] if panel.change else found


def _points(setting: Setting, metric: str, x: str) -> list[Point]:
    every = [_values(rows, metric, x) for rows in setting.rows]
    runs = [run for run in every if run]
    if not runs:
        return []
    for path, run in zip(setting.paths, every, strict=True):
        if not run:
            log.warning("%s: %s is in no row of %s: skipped", setting.label, metric, path)
    shared = set.intersection(*map(set, runs))
    _warn_of_gaps(setting, metric, set.union(*map(set, runs)) - shared)
    return [_point(iteration, [run[iteration] for run in runs]) for iteration in sorted(shared)]


def _values(rows: Sequence[Numbers], metric: str, x: str) -> dict[int, tuple[float, float, float]]:
    """Return, by iteration, (x, metric, half width of its 95 % interval or NaN) of a run."""
    found = {}
    for row in rows:
        at, value = row.get(x), row.get(metric)
        if at is not None and value is not None:
            half = row.get(interval_of(metric))
            found[row.iteration] = (at, value, math.nan if half is None else half)
    return found


def _point(iteration: int, runs: Sequence[tuple[float, float, float]]) -> Point:
    if len(runs) == 1:
        return Point(iteration, *runs[0], runs=1)
    mean, half = mean_ci95([value for _, value, _ in runs])
    return Point(iteration, sum(at for at, _, _ in runs) / len(runs), mean, half, len(runs))


def _warn_of_gaps(setting: Setting, metric: str, missing: set[int]) -> None:
    """Warn of iterations that not every run of a setting has, and that are therefore skipped.

    A mean over different runs at different iterations would jump where no run does.
    """
    if missing:
        log.warning(
            "%s: %s is not in every run at iteration %s: skipped",
            *(setting.label, metric, ", ".join(map(str, sorted(missing)))),
        )


def _from_start(series: Series) -> Series:
    first = series.points[0].value
    return replace(series, points=tuple(replace(p, value=p.value - first) for p in series.points))
