"""From a command line to the config of a drawing: `raft sample` and `raft bon` read no YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raft.assemble import check_model
from raft.config import apply_override, make_config
from raft.config_schema import RunConfig
from rollout.errors import InputError

__all__ = ["drawing_config"]

# what a drawing has of a run's config
_SECTIONS = ("seed", "policy", "prompts", "sampling", "cluster")


def drawing_config(
    command: str, options: Mapping[str, Any], assignments: Sequence[str] = ()
) -> RunConfig:
    """A run without iterations, of which only drawing is asked: its reward is never built.

    Args:
        command: names the command in messages.
        options: dotted keys (`policy.model`) and their values, None where not given.
        assignments: `key.sub=value`, over the options.

    Raises:
        InputError: a key that a drawing has no use for, a value out of range, a missing folder.
    """
    data: dict[str, Any] = {}
    for key, value in options.items():
        if value is not None:
            section, _, name = key.rpartition(".")
            (data.setdefault(section, {}) if section else data)[name] = value
    for assignment in assignments:
        section = assignment.partition("=")[0].partition(".")[0]
        if section not in _SECTIONS:
            raise InputError(
                f"--set {assignment}: {command} has no such key; use {', '.join(_SECTIONS)}, as in "
                "`raft validate --keys`"
            )
        apply_override(data, assignment)
    unused = {"run_dir": ".", "iterations": 0, "reward": {"kind": "function", "function": "length"}}
    config = make_config({**data, **unused}, where=f"raft {command}")
    check_model(config.policy.model, "--policy")
    return config
