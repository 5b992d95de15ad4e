"""`${NAME}` in config strings; RAFT_DATA falls back on ../shared where that exists."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeVar, cast

from rollout.data.jsonl import is_list, is_object
from rollout.errors import InputError

_T = TypeVar("_T")

_VARIABLE = re.compile(r"\$\{(\w+)\}")


def data_root() -> Path | None:
    """The folder of shared data and models: $RAFT_DATA, else ../shared when it exists."""
    named = os.environ.get("RAFT_DATA")
    if named:
        return Path(named)
    beside = Path(__file__).resolve().parents[2].parent / "shared"
    return next((p for p in (Path("../shared"), beside) if p.is_dir()), None)


def expand_paths(value: _T, where: str) -> _T:
    """Replace `${NAME}` by the environment's value in every string of a nested mapping."""
    found: object = value
    if is_object(value):
        found = {key: expand_paths(item, f"{where}: {key}") for key, item in value.items()}
    elif is_list(value):
        found = [expand_paths(item, where) for item in value]
    elif isinstance(value, str):
        found = _VARIABLE.sub(lambda match: _lookup(match[1], where), value)
    return cast(_T, found)


def _lookup(name: str, where: str) -> str:
    if name == "RAFT_DATA" and (root := data_root()) is not None:
        return str(root)
    if name not in os.environ:
        raise InputError(where, f"${{{name}}} is not set in the environment", f"export {name}=…")
    return os.environ[name]
