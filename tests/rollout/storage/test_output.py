"""Who may write an output file, and on what two commands disagree."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
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


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_disks_without_locks_hold_a_file_instead(
    tmp_path: Path,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(file: BinaryIO, how: int) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    path, held = tmp_path / "run.lock", tmp_path / ".run.lock.held"
    with open_locked(path, "out"):
        assert held.read_text() == f"{os.getpid()} on {socket.gethostname()}"
        with pytest.raises(InputError, match=f"in use by process {os.getpid()} on .*delete"):
            open_locked(path, "out")
    assert not held.exists() and any("no file locks" in line for line in caplog.messages)
    # what a killed process of this machine left is taken over, that of another is not
    ended = subprocess.Popen(["true"])
    ended.wait()
    held.write_text(f"{ended.pid} on {socket.gethostname()}")
    with open_locked(path, "out"):
        assert held.read_text().startswith(f"{os.getpid()} ")
    held.write_text(f"{ended.pid} on another-host")
    with pytest.raises(InputError, match="another-host"):
        open_locked(path, "out")


def test_other_errors_of_locks_are_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: BinaryIO, how: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="broken"):
        open_locked(tmp_path / "run.lock", "out")
    assert not (tmp_path / ".run.lock.held").exists()
