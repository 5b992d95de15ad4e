"""What settings are made of: the files and folders that they name, each with a digest.

A job that is continued compares this with what it began with: the same name may hold other content.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["made_of", "without_secrets"]

_SECRETS = ("token",)
_WEIGHTS = 1 << 20  # larger files are known by size and date, smaller ones by what they hold


def made_of(value: Any) -> dict[str, Any]:
    """The files and folders that settings name, each with what tells one content from another."""
    found: dict[str, Any] = {}
    if isinstance(value, Mapping):
        for item in value.values():
            found.update(made_of(item))
    elif isinstance(value, list):
        for item in value:
            found.update(made_of(item))
    elif isinstance(value, str) and value:
        file, colon, _ = value.partition(".py:")
        with contextlib.suppress(OSError, RuntimeError):  # text too long for a path, ~ of nobody
            path = Path(f"{file}.py" if colon else value).expanduser()
            if path.exists():
                found[str(path)] = _stamp(path)
    return found


def without_secrets(value: Any) -> Any:
    """Settings as they may stand in a file."""
    if isinstance(value, Mapping):
        return {k: without_secrets(v) for k, v in value.items() if k not in _SECRETS}
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return value


def _stamp(path: Path) -> Any:
    if path.is_dir():
        files = sorted(file for file in path.glob("*") if file.is_file())
        return {file.name: _stamp(file) for file in files if not file.name.startswith(".")}
    stat = path.stat()
    if stat.st_size <= _WEIGHTS:
        return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
    return [stat.st_size, stat.st_mtime_ns]
