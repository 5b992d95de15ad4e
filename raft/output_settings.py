"""What the writers of output files share: who may write one, and what tells it from another."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from raft.files import read_json
from rollout.errors import InputError

__all__ = ["differences", "identity", "lock_output", "read_settings", "refuse_input"]


def lock_output(lock: IO[Any], output: Path) -> None:
    """Hold `lock` until it is closed. Raises InputError where another process holds it, or held it
    when this one opened the file: that is no longer under its name then."""
    taken = f"{output}: another command is writing it; wait for it, or choose another --out"
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise InputError(taken) from error
    path = Path(lock.name)
    if not (path.exists() and os.path.samestat(path.stat(), os.fstat(lock.fileno()))):
        lock.close()
        raise InputError(taken)


def refuse_input(output: Path, source: Path) -> None:
    """Raises InputError where an output is the file that it is made of."""
    if output.exists() and source.exists() and output.samefile(source):
        raise InputError(
            f"{source}: would be overwritten by what is made of it; name another --out"
        )


def read_settings(path: Path) -> dict[str, Any]:
    """What stands beside an output; nothing where that is missing or damaged."""
    try:
        stored = read_json(path)
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def differences(stored: Any, given: Any, free: Sequence[str] = (), prefix: str = "") -> list[str]:
    """Dotted keys on which settings disagree, but for `free`, with both values where short."""
    if prefix in free:
        return []
    if isinstance(stored, dict) and isinstance(given, dict):
        below = [
            differences(stored.get(k), given.get(k), free, f"{prefix}.{k}".lstrip("."))
            for k in sorted({*stored, *given})
        ]
        return [one for some in below for one in some]
    if stored == given:
        return []
    values = f"{stored!r} → {given!r}"
    return [f"{prefix} {values}" if len(values) <= 60 else prefix]


def identity(stat: os.stat_result) -> list[int]:
    """What tells a file from another that gets its name, without reading it."""
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]
