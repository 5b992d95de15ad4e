"""Arguments of the functions of `raft`: data as files or rows, rewards by name, mapping or spec."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from raft.config.reward_option import read_spec
from rewards.spec import RewardSpec
from rollout.data.jsonl import encode_rows, json_columns
from rollout.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Data", "File", "RewardLike", "check_at_least", "to_spec"]

RewardLike = RewardSpec | Mapping[str, object] | str | Path


@runtime_checkable
class _Frame(Protocol):
    """A pandas DataFrame, recognised by its methods so that pandas need not be imported."""

    def iterrows(self) -> object: ...

    def to_dict(self, orient: str) -> list[dict[str, object]]: ...


# a file or a dataset's name, or rows: objects, or texts, which are prompts; or a DataFrame
Data = str | Path | Iterable[Mapping[str, object] | str] | _Frame


class File:
    """The name of a file or dataset; rows in memory are written to a temporary JSONL file.

    The temporary file is deleted when this object is garbage collected, so results hold on to it.
    """

    def __init__(self, data: Data, name: str) -> None:
        self._folder: Path | None = None
        if isinstance(data, str | Path):
            self.name = str(data)
            return
        rows = _rows(data, name)
        self._folder = Path(tempfile.mkdtemp(prefix="raft-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self.name = str(self._folder / f"{name}.jsonl")
        Path(self.name).write_bytes(encode_rows(rows))


def to_spec(
    reward: RewardLike, *, sections: Sequence[str] = ("reward",), kind: str = "model"
) -> RewardSpec:
    """Return the spec of a reward: named as for `--reward`, its settings as a mapping, or a spec.

    `sections` and `kind` are as `read_spec` takes them. Raises InputError as `read_spec` does, and
    for a Python function, which other processes cannot import.
    """
    if isinstance(reward, str | Path):
        return read_spec(str(reward), {}, sections=sections, kind=kind)
    if isinstance(reward, Mapping):
        return read_spec(dict(reward), {}, sections=sections, kind=kind)
    if callable(reward):
        fix = 'name it "function:FILE.py:NAME": it runs in other processes too'
        raise InputError(sections[0], "is a function of this process", fix)
    return reward


def check_at_least(**numbers: tuple[int, int | None]) -> None:
    """Check numbers given as NAME=(least, number): each is whole and not below its least, or None.

    Raises InputError with the name of the first that is not. Options of the commands are checked
    by their parser; this is for calls from Python.
    """
    for name, (least, value) in numbers.items():
        if value is not None and (type(value) is not int or value < least):
            what = "" if type(value) is int else f", but a {type(value).__name__}"
            raise InputError(f"{name}={value}", f"is no int of {least} or more{what}", "change it")


def _rows(
    data: Iterable[Mapping[str, object] | str] | _Frame, name: str
) -> list[dict[str, object]]:
    if isinstance(data, Mapping):
        raise InputError(name, "is one row", "give a list of rows")
    given = data.to_dict(orient="records") if isinstance(data, _Frame) else data
    found: list[dict[str, object]] = []
    for number, row in enumerate(given, start=1):
        if isinstance(row, str):
            row = {"prompt": row}
        if not isinstance(row, Mapping):
            raise InputError(
                f"{name}[{number - 1}]", f"is a {type(row).__name__}", "give an object with columns"
            )
        found.append(json_columns(row, f"{name}[{number - 1}]"))
    return found
