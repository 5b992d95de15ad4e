"""Reading a config of `raft train-reward`: YAML file < `key=value`; every mistake in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raft.config import read_mapping, validated
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
    if {"policy", "prompts"} & data.keys():
        raise InputError(f"{path}: is a run, and trains no reward model: raft run {path}")
    return make_train_config(data, where=str(path))


def make_train_config(data: dict[str, Any], where: str = "config") -> TrainRewardConfig:
    """Validate a mapping; `where` names it in messages."""
    return validated(TrainRewardConfig, data, where, see="raft train-reward --keys")
