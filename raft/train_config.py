"""Reading a config of `raft train-reward`: YAML file < `key=value`; every mistake in one line."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raft.config import known_keys, read_mapping
from raft.paths import expand_paths
from raft.train_schema import TrainRewardConfig
from rollout.errors import InputError

__all__ = ["load_train_config", "make_train_config"]


def load_train_config(path: str | Path, overrides: list[str] | None = None) -> TrainRewardConfig:
    """Read a YAML file and apply `key.sub=value` overrides (values are YAML).

    Raises:
        InputError: the file is missing or no YAML, a key is unknown or out of range, or keys
            contradict each other; one line that names the key and the file.
    """
    data = read_mapping(path, overrides, examples="configs/reward/")
    return make_train_config(data, where=str(path))


def make_train_config(data: dict[str, Any], where: str = "config") -> TrainRewardConfig:
    """Validate a mapping; `where` names it in messages."""
    try:
        return TrainRewardConfig.model_validate(expand_paths(data, where))
    except ValidationError as error:
        complaints = "; ".join(map(_complaint, error.errors()))
        raise InputError(f"{where}: {complaints}") from error


def _complaint(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, known_keys(TrainRewardConfig), n=1)
        return f"{key}: unknown key{f'; did you mean {close[0]}?' if close else ''}"
    if item["type"] == "missing":
        return f"{key}: missing"
    message = item["msg"].removeprefix("Value error, ")
    if not isinstance(item["input"], str | int | float | bool | None):
        return f"{key}: {message}" if key else message
    return f"{key}: {message} (got {item['input']!r})"
