"""The output of `raft score` and `raft rank`: one row for each of the input's, in their order.

While it is written there are, beside `NAME`,

- `.NAME.partial`, the rows that are finished: an interrupted command goes on behind them, and at
  the end the file gets its name, whole;
- `.NAME.settings`, what the rows were made from, which stays to tell whose rows `NAME` holds.

Whose files these are: the settings that output files were made with, and who may write them.

Beside the first of the files, `NAME`, stands `.NAME.settings` with the settings, what tells the
finished files from others of their names, and a record of the work; `.NAME.lock` is there while a
process works.

What the writers of output files share: who may write one, and what tells it from another.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

from rollout.data.jsonl import encode_rows
from rollout.errors import InputError
from rollout.storage.files import disk_full_as_input_error, read_json, write_json

__all__ = [
    "JobFile",
    "Output",
    "OutputLock",
    "Stdout",
    "differences",
    "identity",
    "lock_output",
    "output_path",
    "read_settings",
    "refuse_input",
]


def lock_output(lock: IO[Any], output: Path) -> None:
    """Hold `lock` until it is closed. Raises InputError where another process holds it, or held it
    when this one opened the file: that is no longer under its name then."""
    taken = InputError(
        output, "another command is writing it", "wait for it, or choose another --out"
    )
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise taken from error
    path = Path(lock.name)
    if not (path.exists() and os.path.samestat(path.stat(), os.fstat(lock.fileno()))):
        lock.close()
        raise taken


def refuse_input(output: Path, source: Path) -> None:
    """Raises InputError where an output is the file that it is made of."""
    if output.exists() and source.exists() and output.samefile(source):
        raise InputError(source, "would be overwritten by what is made of it", "name another --out")


def read_settings(path: Path) -> dict[str, Any]:
    """What stands beside an output; nothing where that is missing or damaged."""
    try:
        stored = read_json(path)
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def differences(stored: Any, given: Any, free: Sequence[str] = (), prefix: str = "") -> list[str]:
    """Dotted keys on which settings disagree, but for `free`, with both values where short."""
    if prefix in free:
        return []
    if isinstance(stored, dict) and isinstance(given, dict):
        below = [
            differences(stored.get(k), given.get(k), free, f"{prefix}.{k}".lstrip("."))
            for k in sorted({*stored, *given})
        ]
        return [one for some in below for one in some]
    if stored == given:
        return []
    values = f"{stored!r} → {given!r}"
    return [f"{prefix} {values}" if len(values) <= 60 else prefix]


def identity(stat: os.stat_result) -> list[int]:
    """What tells a file from another that gets its name, without reading it."""
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]


log = logging.getLogger("raft")


class Output(Protocol):
    """Where rows go, a chunk at a time."""

    def recall(self, count: int) -> list[dict[str, Any]] | None:
        """The next `count` rows when an interrupted command finished them all, otherwise None."""
        ...

    def append(self, rows: Sequence[dict[str, Any]]) -> None: ...

    def finish(self, record: dict[str, Any]) -> None:
        """All rows are there; `record` is what there is to say of them."""
        ...


class Stdout:
    """Rows on standard output. Nothing of an interrupted command is left to go on from."""

    def recall(self, count: int) -> list[dict[str, Any]] | None:
        return None

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        sys.stdout.write(encode_rows(rows).decode())
        sys.stdout.flush()

    def finish(self, record: dict[str, Any]) -> None:
        pass


class JobFile:
    """One process at a time. `settings` decide whose rows an interrupted command left.

    With `restart` these are thrown away, and a finished file is replaced at the end. Settings whose
    keys are in `free` may differ between an interrupted command and the one that goes on. When the
    file is `complete` there is nothing to write, and `record` is what `finish` was told.

    Raises:
        InputError: the file, or the rows left, were made with other settings; the folder cannot be
            written; another process is writing.
    """

    def __init__(
        self,
        path: Path,
        settings: dict[str, Any],
        *,
        free: Sequence[str] = (),
        restart: bool = False,
    ) -> None:
        self.path = path
        self._settings_path = path.with_name(f".{path.name}.settings")
        self._partial = path.with_name(f".{path.name}.partial")
        self._settings = json.loads(json.dumps(settings, default=str))  # as it is read back
        self._claimed = False
        self._end = 0
        self.record: dict[str, Any] | None = None
        self.complete = not restart and self._is_complete(free)
        if not self.complete:
            with disk_full_as_input_error(path):
                self._file = self._opened()
                if restart:
                    self._file.truncate(0)
            self._reader = open(self._partial, "rb")  # noqa: SIM115 - closed with the other

    def recall(self, count: int) -> list[dict[str, Any]] | None:
        lines = [self._reader.readline() for _ in range(count)]
        rows = [_whole_row(line) for line in lines]
        if None in rows:
            # a part of a chunk is scored again: who is scored together must not depend on a kill
            self._file.truncate(self._end)
            self._reader.seek(self._end)
            return None
        self._end += sum(map(len, lines))
        return [row for row in rows if row is not None]

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        data = encode_rows(rows)
        self._claim()
        with disk_full_as_input_error(self.path):
            # unbuffered: whatever a kill leaves of this, `recall` cuts off
            written = 0
            while written < len(data):
                written += self._file.write(data[written:]) or 0
        self._end += len(data)
        self._reader.seek(self._end)

    def finish(self, record: dict[str, Any]) -> None:
        self._claim()
        with disk_full_as_input_error(self.path):
            self._file.truncate(self._end)
            os.fsync(self._file.fileno())
            os.replace(self._partial, self.path)
            self._write_settings(record)
        self.complete, self.record = True, record

    def __enter__(self) -> JobFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if hasattr(self, "_reader"):
            self._reader.close()
            if not self.complete and os.fstat(self._file.fileno()).st_size == 0:
                self._partial.unlink(missing_ok=True)
            self._file.close()

    def _is_complete(self, free: Sequence[str]) -> bool:
        stored = read_settings(self._settings_path)
        settings = stored.get("settings")
        if self._partial.exists() and self._partial.stat().st_size > 0:
            changed = settings and differences(settings, self._settings, free)
            self._refuse(changed, f"holds rows of an interrupted command ({self._partial.name})")
            for one in differences(settings, self._settings, ()):
                log.info("%s: going on with finished rows, although %s", self.path, one)
            return False
        if not self.path.exists():
            return False
        known = stored.get("file", [None])
        if known != identity(os.stat(self.path))[: len(known)]:  # it came from elsewhere
            settings = None
        self._refuse(settings and differences(settings, self._settings, ()), "is there already")
        self.record = stored.get("record")
        return True

    def _refuse(self, changed: list[str] | None, what: str) -> None:
        if changed == []:
            return
        how = f"made otherwise ({', '.join(changed)})" if changed else "and nothing tells how made"
        raise InputError(
            self.path,
            f"{what}, {how}",
            "use --restart to make it anew, or another --out",
        )

    def _claim(self) -> None:
        """Before the first row of this process: that what is there is of these settings."""
        if not self._claimed:
            self._write_settings(None)
            self._claimed = True

    def _write_settings(self, record: dict[str, Any] | None) -> None:
        # the file keeps its inode when it gets its name: by it the settings know it again
        now = identity(os.fstat(self._file.fileno()))
        known = now[:1] if record is None else now
        write_json(
            self._settings_path, {"settings": self._settings, "file": known, "record": record}
        )

    def _opened(self) -> Any:
        try:
            file = open(self._partial, "a+b", buffering=0)  # noqa: SIM115 - held until the end
        except OSError as error:
            raise InputError(
                self.path,
                f"cannot be written ({error.strerror})",
                "choose another --out",
            ) from error
        lock_output(file, self.path)
        return file


def output_path(given: str | None, source: str, stem: str, ending: str) -> Path | None:
    """Where the rows go, None being standard output; by default beside a file that is read.

    Raises InputError for a folder, the input itself, or a suffix of another form than JSONL.
    """
    if given == "-":
        return None
    file = Path(source).expanduser()
    beside = file.parent if file.is_file() else Path()
    path = Path(given).expanduser() if given else beside / f"{stem}.{ending}.jsonl"
    if path.is_dir():
        raise InputError(f"--out {path}", "is a folder", "name a file in it")
    if path.exists() and not path.is_file():  # a device or a pipe: a file would take its place
        raise InputError(
            f"--out {path}",
            "is no file",
            "write to stdout with --out -, and redirect it",
        )
    if path.exists() and file.exists() and path.samefile(file):
        raise InputError(f"--out {path}", "is the file that is read", "name another")
    if path.suffix in (".gz", ".parquet", ".json"):
        raise InputError(f"--out {path}", "rows are written as JSONL", "name it .jsonl")
    return path


def _whole_row(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


class OutputLock:
    """Output `files` under `settings`; one process at a time.

    `complete` says that all of them are there under these settings, and `record` is what `finish`
    was told. Otherwise `begin` comes before the first byte is written, `finish` after the last;
    `leftovers` are what an interrupted command may have left to go on from. With `restart` all of
    it is deleted. With `redo` other settings are no obstacle: the files are cheap to make anew.

    Raises:
        InputError: what is there was made with other settings or came from elsewhere; the folder
            cannot be written; another process is at work.
    """

    def __init__(
        self,
        files: Sequence[Path],
        settings: dict[str, Any],
        *,
        leftovers: Sequence[Path] = (),
        restart: bool = False,
        redo: bool = False,
    ) -> None:
        self._files = tuple(files)
        self._leftovers = tuple(leftovers)
        self._settings = json.loads(json.dumps(settings, default=str))  # as it is read back
        first = self._files[0]
        self._path = first.with_name(f".{first.name}.settings")
        self._lock_path = first.with_name(f".{first.name}.lock")
        self._lock = self._locked()
        try:
            stored = read_settings(self._path)
            if restart:
                self._delete()
                stored = {}
            self.complete = self._is_complete(stored)
            self.record: dict[str, Any] = stored.get("record") or {} if self.complete else {}
            if not self.complete:
                self._check(stored, redo)
        except BaseException:
            self._release()
            raise

    def begin(self) -> None:
        """From now on what is there is of these settings."""
        self._write(files=None, record=None)

    def finish(self, record: dict[str, Any]) -> None:
        self._write({file.name: identity(file.stat()) for file in self._files}, record)
        self.complete, self.record = True, record

    def __enter__(self) -> OutputLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()

    def _is_complete(self, stored: dict[str, Any]) -> bool:
        known = stored.get("files") or {}
        return stored.get("settings") == self._settings and all(
            file.exists() and known.get(file.name) == identity(file.stat()) for file in self._files
        )

    def _check(self, stored: dict[str, Any], redo: bool) -> None:
        """Refuse to touch what is another's, or what other settings made."""
        there = [file for file in self._files if file.exists()]
        begun = any(path.exists() and path.stat().st_size > 0 for path in self._leftovers)
        known = stored.get("files")
        for file in there:
            # a claim that was begun and not finished made whatever is there
            foreign = not stored or (
                known is not None and known.get(file.name) != identity(file.stat())
            )
            if foreign:
                raise InputError(
                    file,
                    "is there already, and nothing tells how it was made",
                    "use --restart to make it anew, or another --out",
                )
        changed = differences(stored.get("settings") or {}, self._settings)
        if changed and (there or begun) and not redo:
            what = "is there already" if there else "was begun by an interrupted command"
            raise InputError(
                f"{self._files[0]}",
                f"{what}, under other settings ({', '.join(changed)})",
                "restore them, use --restart to make it anew, or another --out",
            )

    def _delete(self) -> None:
        for path in (*self._files, *self._leftovers, self._path):
            path.unlink(missing_ok=True)

    def _write(self, files: dict[str, list[int]] | None, record: dict[str, Any] | None) -> None:
        write_json(self._path, {"settings": self._settings, "files": files, "record": record})

    def _locked(self) -> Any:
        folder = self._lock_path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with disk_full_as_input_error(self._lock_path):
                lock = open(self._lock_path, "a")  # noqa: SIM115 - held until the end
        except OSError as error:
            raise InputError(
                f"{self._files[0]}",
                f"cannot be written ({error.strerror})",
                "choose another --out",
            ) from error
        lock_output(lock, self._files[0])
        return lock

    def _release(self) -> None:
        # nothing was made: nothing is to be known of it
        if not any(path.exists() for path in (*self._files, *self._leftovers)):
            self._path.unlink(missing_ok=True)
        self._lock_path.unlink(missing_ok=True)
        self._lock.close()
