"""Find what rows are read from: a file, standard input, a folder, or a saved or named dataset."""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from rollout.errors import InputError

__all__ = ["STDIN", "Kind", "Source", "find_source", "parse_columns"]

Kind = Literal["jsonl", "json", "csv", "parquet", "text", "saved", "dataset"]

STDIN = "-"
_KIND_OF_SUFFIX: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}
# suffixes of the shards in a folder; a .json there may as well describe them
_SHARDS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
# a missing path with one of these endings is a mistyped file, not the name of a dataset
_FILE_SUFFIXES = {*_KIND_OF_SUFFIX, ".gz", ".zip", ".zst", ".yaml"}
_READABLE = ".jsonl, .ndjson, .json, .csv, .tsv and .txt (each also with .gz) and .parquet"
_SPLIT = re.compile(r"(train|test|validation|valid|val|dev|eval)(?![a-zA-Z])")


@dataclass(frozen=True, slots=True)
class Source:
    """What rows are read from.

    Args:
        name: as the user wrote it; stem: the beginning of derived ids.
        files: one, or the shards of a folder, in order; none for a named dataset.
        split: the split of a dataset.
        columns: {name here: name in the file}, see `rollout.data.forms.renamed`.
    """

    name: str
    kind: Kind
    stem: str
    files: tuple[Path, ...] = ()
    split: str = "train"
    columns: Mapping[str, str] = field(default_factory=dict[str, str])


def find_source(
    path: str | Path, *, split: str = "train", columns: Mapping[str, str] | None = None
) -> Source:
    """Return what `path` is: an existing file by its suffix, a folder by what it holds, "-" for
    standard input, otherwise the name of a dataset.

    Raises InputError for a missing file, a device, a suffix that no reader knows, and a folder
    without rows, with files of several forms or without the split.
    """
    name, names = str(path), dict(columns or {})
    if name == STDIN:
        file = _standard_input()
        return Source(name, _kind_of_bytes(file), "stdin", (file,), split, names)
    file = Path(name).expanduser()
    if not name:
        raise InputError("''", "is no name of a file", "name one")
    if file.is_dir():
        kind, files = _folder(file, name, split)
        return Source(name, kind, file.resolve().name, files, split, names)
    if file.exists():
        if not file.is_file():  # reading a pipe might never end
            problem = "is no file but a pipe or a device"
            raise InputError(name, problem, "read standard input instead: - < NAME")
        return Source(name, _kind_of_file(file, name), _stem(file), (file,), split, names)
    if os.path.lexists(file):
        raise InputError(name, "is a symlink that leads nowhere", "check the path")
    if isinstance(path, Path) or _looks_like_file(name):
        raise InputError(name, "no such file", "check the path")
    stem = name.rsplit("/", 1)[-1].replace(":", "-")
    return Source(name, "dataset", stem, (), split, names)


def parse_columns(text: str) -> dict[str, str]:
    """Parse `prompt=question,answer=reward_model.ground_truth` into {name here: name in the file}.

    Nothing after `=` removes a column. Raises InputError for a part that is not NAME=COLUMN.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, there = part.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--columns {text}", f"{part!r} is not NAME=COLUMN")
        found[name.strip()] = there.strip()
    return found


@lru_cache(maxsize=1)
def _standard_input() -> Path:
    """Copy standard input to a temporary file, since rows are read twice, and return its path.

    The file is deleted when the process ends; further calls return the same path.
    """
    handle, name = tempfile.mkstemp(prefix="raft-stdin-")
    atexit.register(Path(name).unlink, missing_ok=True)
    with os.fdopen(handle, "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return Path(name)


def _kind_of_bytes(file: Path) -> Kind:
    with open(file, "rb") as stream:
        start = stream.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith(b"["):
        return "json"
    return "jsonl" if start[:1] in (b"{", b"") or start.startswith(b"\x1f\x8b") else "text"


def _kind_of_file(file: Path, name: str) -> Kind:
    suffix = _suffix(file)
    kind = _KIND_OF_SUFFIX.get(suffix)
    if kind is None or (kind == "parquet" and file.suffix.lower() == ".gz"):
        raise InputError(name, "cannot tell the file's form from its suffix", f"use {_READABLE}")
    return kind


def _suffix(file: Path) -> str:
    suffixes = [s.lower() for s in file.suffixes]
    zipped = suffixes[-1:] == [".gz"]
    return suffixes[-2] if zipped and len(suffixes) > 1 else (suffixes or [""])[-1]


def _stem(file: Path) -> str:
    return Path(file.stem).stem if file.suffix.lower() == ".gz" else file.stem


def _looks_like_file(name: str) -> bool:
    return (
        name.startswith((".", "/", "~"))
        or "\\" in name
        or name.count("/") > 1
        or Path(name).suffix.lower() in _FILE_SUFFIXES
    )


def _folder(folder: Path, name: str, split: str) -> tuple[Kind, tuple[Path, ...]]:
    splits = folder / "dataset_dict.json"
    if splits.is_file():
        known = json.loads(splits.read_text(encoding="utf-8")).get("splits", [])
        if split not in known:
            raise InputError(name, f"has no split {split!r}", f"use --split {' or '.join(known)}")
        return "saved", (folder / split,)
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return "saved", (folder,)
    # datasets of the hub have their files in `data`
    shards = _shards(folder) or _shards(folder / "data")
    kinds = {_KIND_OF_SUFFIX[_suffix(file)] for file in shards}
    if not shards:
        raise InputError(name, "is a folder without rows", f"name a file ({_READABLE})")
    if len(kinds) > 1:
        raise InputError(name, f"holds files of {len(kinds)} forms", "name one of them")
    found = [_SPLIT.match(file.name) for file in shards]
    named = {match[1] for match in found if match}
    if named and split not in named:
        raise InputError(
            name, f"has no split {split!r}", f"use --split {' or '.join(sorted(named))}"
        )
    if named:
        pairs = zip(shards, found, strict=True)
        shards = [file for file, match in pairs if match and match[1] == split]
    return _KIND_OF_SUFFIX[_suffix(shards[0])], tuple(shards)


def _shards(folder: Path) -> list[Path]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [file for file in files if file.is_file() and _suffix(file) in _SHARDS]
