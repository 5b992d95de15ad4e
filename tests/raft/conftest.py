"""What the tests of runs share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import raft.curves
from raft.workers.fork_server import shared_server
from rollout.storage.files import write_whole


@pytest.fixture(scope="session", autouse=True)
def libraries_loaded_once() -> Iterator[None]:
    """One process that workers are forked from for all runs of a session: see `raft.workers`."""
    with shared_server():
        yield


_draw = raft.curves.draw_curves


@pytest.fixture(autouse=True)
def word_for_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs write a word in place of their picture: drawing takes three quarters of a toy run.

    Tests that look at what a run draws are marked `pictures`.
    """
    if request.node.get_closest_marker("pictures") is None:
        monkeypatch.setattr(raft.curves, "draw_curves", _word)


def _word(runs: Sequence[Any], out: Any = None, **more: Any) -> list[Path]:
    if more or out is None or Path(out) != Path(runs[0]) / "curves.png":
        return _draw(runs, out, **more)
    write_whole(Path(out), "no picture")
    return [Path(out)]
