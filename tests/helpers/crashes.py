"""A process that ends at any call that changes a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_runs

import raft.loop
from raft.config.run import RunConfig
from raft.updates import toy
from raft.updates.toy import ToyTrainer
from rollout.storage.append_log import AppendLog


class Crash(BaseException):
    """Nothing in the toolkit catches it."""


def crashing_calls(monkeypatch: pytest.MonkeyPatch, at: int, *, after: bool) -> Callable[[], int]:
    """Make the `at`-th change of the run folder crash, before or after it is done."""
    begun = 0

    def told(number: int, done: bool) -> None:
        nonlocal begun
        begun = max(begun, number)
        if number == at and done == after:
            raise Crash

    _watch_changes(monkeypatch, told)
    return lambda: begun


def folders_of_kills(
    monkeypatch: pytest.MonkeyPatch, folder: Path, copies: Path
) -> Callable[[], list[Path]]:
    """Copy the run folder as a kill would leave it before and after each change, equal ones once.

    Going on from a copy is what going on after that kill is, and spares the run up to it.
    """
    found: dict[tuple[tuple[str, bytes], ...], Path] = {}

    def told(number: int, done: bool) -> None:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        state = tuple((str(path), path.read_bytes()) for path in files)
        if state not in found:
            found[state] = copies / f"{number:03d}-{'after' if done else 'before'}"
            if folder.exists():
                shutil.copytree(folder, found[state])
            else:
                found[state].mkdir(parents=True)

    _watch_changes(monkeypatch, told)
    return lambda: list(found.values())


def check_every_kill(
    monkeypatch: pytest.MonkeyPatch, root: Path, settings: RunConfig, *, more_than: int
) -> None:
    """A run into `root`/run gives the same files and metrics, and leaves nothing hidden, after a
    kill at any change of its folder, of which there are more than so many."""
    monkeypatch.setattr("raft.runs.environment.describe_environment", dict)
    with monkeypatch.context() as patched:
        left = folders_of_kills(patched, root / "run", root / "left")
        straight = raft.loop.run(settings)
    expected = toy_runs.results(straight), toy_runs.lasting(straight)
    states = left()
    assert len(states) > more_than
    for state in states:
        shutil.rmtree(straight)
        state.rename(straight)
        found = raft.loop.run(settings)
        assert (toy_runs.results(found), toy_runs.lasting(found)) == expected, state.name
        assert toy_runs.hidden(found) == [], state.name


def _watch_changes(monkeypatch: pytest.MonkeyPatch, told: Callable[[int, bool], None]) -> None:
    """Have `told` called before and after each change: its number, and whether it is done."""
    count = 0

    def wrap(holder: Any, name: str) -> None:
        original = getattr(holder, name)

        def changed(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            mine = count
            told(mine, False)
            result = original(*arguments, **named)
            told(mine, True)
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
