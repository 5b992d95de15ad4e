"""The folder of the public models and data that the experiments read."""

from __future__ import annotations

from pathlib import Path

__all__ = ["data"]


def data(path: str) -> Path:
    """Return the path of a file or folder of $RAFT_DATA. Ends with SystemExit without it."""
    from raft.config.paths import data_root

    root = data_root()
    if root is None or not (root / path).exists():
        raise SystemExit(f"no {path}: set RAFT_DATA to the folder that holds it")
    return (root / path).resolve()
