"""A process that ends at any call that changes a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raft.updates import toy
from raft.updates.toy import ToyTrainer
from rollout.storage.append_log import AppendLog


class Crash(BaseException):
    """Nothing in the toolkit catches it."""


def crashing_calls(monkeypatch: pytest.MonkeyPatch, at: int, *, after: bool) -> Callable[[], int]:
    """Make the `at`-th change of the run folder crash, before or after it is done."""
    count = 0

    def wrap(holder: Any, name: str) -> None:
        original = getattr(holder, name)

        def changed(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            mine = count
            if mine == at and not after:
                raise Crash
            result = original(*arguments, **named)
            if mine == at:
                raise Crash
            return result

        monkeypatch.setattr(holder, name, changed)

    for holder, name in (
        (os, "replace"),
        (Path, "unlink"),
        (Path, "rename"),
        (shutil, "rmtree"),
        (AppendLog, "append"),
        (ToyTrainer, "train"),
        (toy, "write_toy"),  # the weights are there, their metrics are not
    ):
        wrap(holder, name)
    return lambda: count
