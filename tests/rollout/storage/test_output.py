"""Who may write an output file, and on what two commands disagree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rollout.errors import InputError
from rollout.storage.output import differences, lock_output


def test_differences_are_named_by_dotted_keys() -> None:
    stored = {"n": 4, "policy": {"model": "a", "dtype": None}, "digest": "x" * 80}
    given = {"n": 4, "policy": {"model": "b"}, "digest": "y" * 80, "seed": 1}
    assert differences(stored, given) == ["digest", "policy.model 'a' → 'b'", "seed None → 1"]
    assert differences(stored, given, free=("digest", "policy", "seed")) == []
    assert differences({}, given) != [] and differences(given, given) == []


@pytest.mark.parametrize("left", [Path.unlink, lambda path: path.rename(path.with_name("done"))])
def test_a_lock_that_was_let_go_with_its_file_is_none(
    tmp_path: Path, left: Callable[[Path], object]
) -> None:
    path = tmp_path / "lock"
    with open(path, "a") as first, open(path, "a") as late:
        lock_output(first, tmp_path / "out")
        left(path)  # the first command ends between the other's opening and locking
        first.close()
        with pytest.raises(InputError, match="another command is writing it"):
            lock_output(late, tmp_path / "out")
    with open(path, "a") as next_one:
        lock_output(next_one, tmp_path / "out")
        with open(path, "a") as other, pytest.raises(InputError, match="Wait for it"):
            lock_output(other, tmp_path / "out")
