"""`${NAME}` in config strings; RAFT_DATA falls back on ../shared where that exists."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rollout.errors import InputError

_VARIABLE = re.compile(r"\$\{(\w+)\}")


def data_root() -> Path | None:
    """The folder of shared data and models: $RAFT_DATA, else ../shared when it exists."""
    named = os.environ.get("RAFT_DATA")
    if named:
        return Path(named)
    beside = Path(__file__).resolve().parents[2].parent / "shared"
    return next((p for p in (Path("../shared"), beside) if p.is_dir()), None)


def expand_paths(value: Any, where: str) -> Any:
    """Replace `${NAME}` by the environment's value in every string of a nested mapping."""
    if isinstance(value, Mapping):
        return {key: expand_paths(item, f"{where}: {key}") for key, item in value.items()}
    if isinstance(value, list):
        return [expand_paths(item, where) for item in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _lookup(match[1], where), value)
    return value


def _lookup(name: str, where: str) -> str:
    if name == "RAFT_DATA" and (root := data_root()) is not None:
        return str(root)
    if name not in os.environ:
        raise InputError(where, f"${{{name}}} is not set in the environment", f"export {name}=…")
    return os.environ[name]
