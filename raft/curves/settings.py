"""What one line of a picture stands for: a run, or several seeds of one setting."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raft.curves.marks import Mark, read_marks
from raft.metrics import number, read_metrics
from rollout.errors import InputError

__all__ = ["Setting", "known_keys", "read_settings"]

log = logging.getLogger("raft")


@dataclass(slots=True)
class Setting:
    """Runs that differ in their seed alone, or a single one.

    Attributes:
        rows: of each run, one per iteration.
        marks: of all runs.
    """

    label: str
    paths: list[Path]
    rows: list[list[dict[str, Any]]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)


def read_settings(runs: Sequence[str | Path], labels: Sequence[str] | None = None) -> list[Setting]:
    """Read every run that can be read; what cannot is named in a warning.

    Args:
        runs: run folders, or LABEL=RUN, or LABEL=RUN,RUN,… for several seeds of one setting.
        labels: names instead of the labels and folder names, one each.

    Raises:
        InputError: no run is given or none can be read, or labels do not fit the runs.
    """
    settings = _parse(runs, labels)
    complaints: list[str] = []
    for setting in settings:
        for path in list(setting.paths):
            try:
                setting.rows.append(read_metrics(path, on_damage=complaints.append))
            except InputError as error:
                complaints.append(str(error))
                setting.paths.remove(path)
            else:
                setting.marks += read_marks(path, complaints.append)
    readable = [setting for setting in settings if any(setting.rows)]
    if not readable:
        raise InputError("; ".join(complaints) or _no_rows(settings))
    for complaint in complaints:
        log.warning("%s (left out of the picture)", complaint)
    for setting in settings:
        if setting.paths and setting not in readable:
            log.warning("%s", _no_rows([setting]))
    return readable


def known_keys(settings: Iterable[Setting]) -> set[str]:
    """The keys that have a number in any row."""
    rows = (row for setting in settings for run in setting.rows for row in run)
    return {key for row in rows for key in row if number(row, key) is not None}


def _parse(runs: Sequence[str | Path], labels: Sequence[str] | None) -> list[Setting]:
    if not runs:
        raise InputError("raft curves: no run given; name one run folder or more")
    given = [_split(run) for run in runs]
    if labels and len(labels) != len(given):
        raise InputError(f"--labels: {len(labels)} for {len(given)} runs; give one for each")
    if labels:
        names = list(labels)
    else:
        folders = _folder_names([paths[0] for label, paths in given if label is None])
        names = [folders[paths[0]] if label is None else label for label, paths in given]
    merged: dict[str, Setting] = {}
    for name, (_, paths) in zip(names, given, strict=True):
        known = merged.setdefault(name, Setting(name, []))
        if known.paths and not _same(known.paths, paths):
            raise InputError(f"{name}: names two settings; give each its own label")
        known.paths = paths
    return list(merged.values())


def _split(run: str | Path) -> tuple[str | None, list[Path]]:
    text = str(run)
    at = _equals_sign(text)
    # a folder may have such a name: lr=1e-5
    if isinstance(run, Path) or at < 0 or "/" in text[:at] or Path(text).exists():
        return None, [Path(run)]
    label, found = text[:at].strip(), [Path(path) for path in text[at + 1 :].split(",") if path]
    if not label or not found:
        raise InputError(f"{text}: give LABEL=RUN, or LABEL=RUN,RUN for seeds of one setting")
    for path, count in Counter(map(os.path.abspath, found)).items():
        if count > 1:
            raise InputError(f"{text}: {path} is there {count} times; a run counts once")
    return label, found


def _equals_sign(text: str) -> int:
    """Where the label ends: labels have equals signs too (K=8=runs/k8), and folders."""
    places = [place for place, character in enumerate(text) if character == "="]
    for place in places:
        if all(Path(path).exists() for path in text[place + 1 :].split(",")):
            return place
    return places[0] if places else -1


def _folder_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Folder names, and as much of the path as differs where two have one name."""
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
