"""The settings that an output was made with, stored beside it and compared with later ones.

Settings name files and folders, whose content may change under the same name, so that a stamp of
each content is one more setting.
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
_WEIGHTS = 1 << 20  # bytes; larger files are known by size and date, smaller ones by their content
_PARTS, _PART = 16, 1 << 16


@dataclass(frozen=True, slots=True)
class Stored:
    """The content of `.NAME.settings`; empty where that file is missing or damaged.

    files: name -> `identity` of a finished file, or its inode while it is written; None while
        `OutputFiles` are unfinished, which are known by their names alone.
    """

    settings: dict[str, object]
    files: dict[str, list[int]] | None
    record: dict[str, object]


class StoredSettings:
    """The settings of an output, and the file `.NAME.settings` that keeps them."""

    def __init__(self, first: Path, settings: Mapping[str, object]) -> None:
        self.path = first.with_name(f".{first.name}.settings")
        # in the form in which JSON gives them back, for the comparison
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


# values of a setting that is not set; they equal that of a key which an earlier version lacks
_NOTHING: tuple[object, ...] = (None, {}, [])


def differences(
    stored: object, given: object, free: Sequence[str] = (), prefix: str = ""
) -> list[str]:
    """Return the dotted keys, apart from `free`, on which the settings differ.

    A key is followed by `stored → given` where the two values fit in 60 characters.
    """
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
    """Return [inode, size in bytes, modification time in ns] of a file.

    They distinguish the file from another that gets its name later, without reading either.
    """
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]


def made_of(value: object, *, dates: bool = True) -> dict[str, object]:
    """Return the existing files and folders that settings name: path -> stamp of its content.

    The stamp of a file of up to 1 MiB is a digest. That of a larger one is its size with its date,
    or, without `dates`, with a digest of parts of it: a copy then counts as the same. That of a
    folder has a stamp for each visible file in it.
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
        # a text too long for a path, and `~name` of an unknown user, are no files
        with contextlib.suppress(OSError, RuntimeError):
            path = Path(f"{file}.py" if colon else value).expanduser()
            if path.exists():
                found[str(path)] = _stamp(path, dates)
    return found


def without_secrets(value: _T) -> _T:
    """Return the settings without secrets (`token`), at any depth, so that a file may hold them."""
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
    """Return a digest of 16 parts spread over a large file.

    This detects new weights, since training changes weights everywhere.
    """
    found = hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        for part in range(_PARTS):
            file.seek((size - _PART) * part // (_PARTS - 1))
            found.update(file.read(_PART))
    return found.hexdigest()
