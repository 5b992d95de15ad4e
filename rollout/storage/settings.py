"""The settings that an output was made with: what they are made of, kept beside it, compared.

Settings name files and folders, whose content may change under the same name: a digest of each is
one more setting.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from rollout.data.jsonl import is_list, is_object
from rollout.storage.files import read_json, write_json

__all__ = ["Stored", "StoredSettings", "differences", "identity", "made_of", "without_secrets"]

_T = TypeVar("_T")
_SECRETS = ("token",)
_WEIGHTS = 1 << 20  # larger files are known by size and date, smaller ones by what they hold
_PARTS, _PART = 16, 1 << 16


@dataclass(frozen=True, slots=True)
class Stored:
    """What stands in `.NAME.settings`; empty where that is missing or damaged.

    files: name -> `identity` of a finished file, or its inode while it is written; None where files
        were begun that are told by their names alone.
    """

    settings: dict[str, object]
    files: dict[str, list[int]] | None
    record: dict[str, object]


class StoredSettings:
    """The settings of an output, and the file `.NAME.settings` that keeps them."""

    def __init__(self, first: Path, settings: Mapping[str, object]) -> None:
        self.path = first.with_name(f".{first.name}.settings")
        # as they are read back
        self.given: dict[str, object] = json.loads(json.dumps(settings, default=str))
        self._name = first.name

    def read(self) -> Stored:
        try:
            stored = read_json(self.path)
        except (OSError, ValueError):
            stored = None
        if not is_object(stored):
            return Stored({}, {}, {})
        settings, record, files = stored.get("settings"), stored.get("record"), stored.get("files")
        if is_list(stored.get("file")):  # of one file, as it was written before 0.2
            files = {self._name: stored["file"]}
        return Stored(
            settings if is_object(settings) else {},
            cast(dict[str, list[int]], files) if is_object(files) else None,
            record if is_object(record) else {},
        )

    def write(
        self, files: Mapping[str, list[int]] | None, record: Mapping[str, object] | None
    ) -> None:
        write_json(self.path, {"settings": self.given, "files": files, "record": record})


# a setting that an earlier version did not know, and one that is not set, say the same
_NOTHING: tuple[object, ...] = (None, {}, [])


def differences(
    stored: object, given: object, free: Sequence[str] = (), prefix: str = ""
) -> list[str]:
    """Dotted keys on which settings disagree, but for `free`, with both values where short."""
    if prefix in free:
        return []
    if is_object(stored) and is_object(given):
        return [
            one
            for key in sorted({*stored, *given})
            for one in differences(
                stored.get(key), given.get(key), free, f"{prefix}.{key}".lstrip(".")
            )
        ]
    if stored == given or (stored in _NOTHING and given in _NOTHING):
        return []
    values = f"{stored!r} → {given!r}"
    return [f"{prefix} {values}" if len(values) <= 60 else prefix]


def identity(stat: os.stat_result) -> list[int]:
    """What tells a file from another that gets its name, without reading it."""
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]


def made_of(value: object, *, dates: bool = True) -> dict[str, object]:
    """The files and folders that settings name, each with what tells one content from another.

    Large files are told by size and date, or without `dates` by size and parts of their content: a
    copy then counts as the same.
    """
    found: dict[str, object] = {}
    if is_object(value):
        for item in value.values():
            found.update(made_of(item, dates=dates))
    elif is_list(value):
        for item in value:
            found.update(made_of(item, dates=dates))
    elif isinstance(value, str) and value:
        file, colon, _ = value.partition(".py:")
        with contextlib.suppress(OSError, RuntimeError):  # text too long for a path, ~ of nobody
            path = Path(f"{file}.py" if colon else value).expanduser()
            if path.exists():
                found[str(path)] = _stamp(path, dates)
    return found


def without_secrets(value: _T) -> _T:
    """Settings as they may stand in a file."""
    found: object = value
    if is_object(value):
        found = {k: without_secrets(v) for k, v in value.items() if k not in _SECRETS}
    elif is_list(value):
        found = [without_secrets(item) for item in value]
    return cast(_T, found)


def _stamp(path: Path, dates: bool) -> object:
    if path.is_dir():
        files = sorted(file for file in path.glob("*") if file.is_file())
        return {file.name: _stamp(file, dates) for file in files if not file.name.startswith(".")}
    stat = path.stat()
    if stat.st_size <= _WEIGHTS:
        return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
    return [stat.st_size, stat.st_mtime_ns if dates else _sampled(path, stat.st_size)]


def _sampled(path: Path, size: int) -> str:
    """A digest of parts all over a large file: training changes weights everywhere."""
    found = hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        for part in range(_PARTS):
            file.seek((size - _PART) * part // (_PARTS - 1))
            found.update(file.read(_PART))
    return found.hexdigest()
