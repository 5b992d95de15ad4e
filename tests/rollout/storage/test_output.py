"""Who may write an output file, and on what two commands disagree."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from rollout.errors import InputError
from rollout.storage.files import open_locked
from rollout.storage.settings import differences


def test_differences_are_named_by_dotted_keys() -> None:
    stored = {"n": 4, "policy": {"model": "a", "dtype": None}, "digest": "x" * 80}
    given = {"n": 4, "policy": {"model": "b"}, "digest": "y" * 80, "seed": 1}
    assert differences(stored, given) == ["digest", "policy.model 'a' → 'b'", "seed None → 1"]
    assert differences(stored, given, free=("digest", "policy", "seed")) == []
    assert differences({}, given) != [] and differences(given, given) == []


@pytest.mark.parametrize("left", [Path.unlink, lambda path: path.rename(path.with_name("done"))])
def test_a_lock_that_was_let_go_with_its_file_is_none(
    tmp_path: Path, left: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    first, lock = open_locked(path, "out"), fcntl.flock

    def late(file: BinaryIO, how: int) -> None:
        left(path)  # the first command ends between the other's opening and locking
        first.close()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(InputError, match="another command is writing it"):
        open_locked(path, "out")
    monkeypatch.undo()
    with open_locked(path, "out"), pytest.raises(InputError, match="Wait for it"):
        open_locked(path, "out")
