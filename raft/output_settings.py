"""What the writers of output files share: who may write one, and what tells it from another."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO, Any

from raft.files import read_json
from rollout.errors import InputError

__all__ = ["identity", "lock_output", "read_settings"]


def lock_output(lock: IO[Any], output: Path) -> None:
    """Hold `lock` until it is closed. Raises InputError where another process holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise InputError(
            f"{output}: another command is writing it; wait for it, or choose another --out"
        ) from error


def read_settings(path: Path) -> dict[str, Any]:
    """What stands beside an output; nothing where that is missing or damaged."""
    try:
        stored = read_json(path)
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def identity(stat: os.stat_result) -> list[int]:
    """What tells a file from another that gets its name, without reading it."""
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]
