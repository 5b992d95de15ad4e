"""Output files: one process at a time writes them, and their settings are stored beside them.

An `OutputFile` is written row by row and continued after the last finished row; `OutputFiles` are
several that are made together. Beside the first file, `NAME`, there are

- `.NAME.settings`: the settings, the `identity` of the finished files, and a record of the work. It
  stays when the work is done;
- `.NAME.partial`: the rows of an `OutputFile` while it is written; it also carries the lock;
- `.NAME.lock`: the lock of `OutputFiles` while a process works.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from rollout.data.jsonl import encode_rows, is_object
from rollout.errors import InputError, naming
from rollout.storage.files import open_locked, writing
from rollout.storage.settings import Stored, StoredSettings, differences, identity

__all__ = [
    "Output",
    "OutputFile",
    "OutputFiles",
    "Stdout",
    "output_path",
    "refuse_input",
]

log = logging.getLogger("raft")

Columns = Mapping[str, object]
_RESTART = "use --restart to make it anew, or another"
_ANEW = f"{_RESTART} --out"


class Output(Protocol):
    """Where rows go, a chunk at a time."""

    def recall(self, count: int) -> list[dict[str, object]] | None:
        """Return the next `count` rows if an interrupted command finished them all, else None."""
        ...

    def append(self, rows: Sequence[Columns]) -> None: ...

    def finish(self, record: Columns) -> None:
        """Complete the output after its last row; `record` is a summary that is stored with it."""
        ...


class Stdout:
    """Rows on standard output, of which an interrupted command leaves nothing to continue."""

    def recall(self, count: int) -> list[dict[str, object]] | None:
        return None

    def append(self, rows: Sequence[Columns]) -> None:
        sys.stdout.flush()
        # JSON lines are UTF-8, whatever the encoding of the terminal
        sys.stdout.buffer.write(encode_rows(rows))
        sys.stdout.buffer.flush()

    def finish(self, record: Columns) -> None:
        pass


class OutputFile:
    """One file of rows. `settings` decide whether an interrupted command's rows are continued.

    With `restart` such rows are deleted, and a finished file is replaced at the end. Settings whose
    keys are in `free` may differ between an interrupted command and the one that continues it. When
    the file is `complete` there is nothing to write, and `record` is what `finish` was given.

    Raises:
        InputError: the file, or the rows left, were made with other settings; the folder cannot be
            written; another process is writing.
    """

    def __init__(
        self,
        path: Path,
        settings: Columns,
        *,
        free: Sequence[str] = (),
        restart: bool = False,
    ) -> None:
        self.path = path
        self._settings = StoredSettings(path, settings)
        self._partial = path.with_name(f".{path.name}.partial")
        self._begun = False
        self._end = 0
        self.record: dict[str, object] = {}
        self.complete = not restart and self._is_complete(free)
        if not self.complete:
            self._file = open_locked(self._partial, path)
            if restart:
                self._file.truncate(0)
            self._reader = open(self._partial, "rb")  # noqa: SIM115 - closed with the other

    def recall(self, count: int) -> list[dict[str, object]] | None:
        lines = [self._reader.readline() for _ in range(count)]
        rows = [row for row in map(_whole_row, lines) if row is not None]
        if len(rows) < count:
            # a partly finished chunk is scored again as a whole: which rows are scored together
            # must not depend on when a command was killed
            self._file.truncate(self._end)
            self._reader.seek(self._end)
            return None
        self._end += sum(map(len, lines))
        return rows

    def append(self, rows: Sequence[Columns]) -> None:
        data = encode_rows(rows)
        self._begin()
        with naming(self.path):
            # unbuffered: whatever a kill leaves of this, `recall` cuts off
            written = 0
            while written < len(data):
                written += self._file.write(data[written:]) or 0
        self._end += len(data)
        self._reader.seek(self._end)

    def finish(self, record: Columns) -> None:
        self._begin()
        self._file.truncate(self._end)
        os.fsync(self._file.fileno())
        os.replace(self._partial, self.path)
        self._settings.write({self.path.name: identity(os.fstat(self._file.fileno()))}, record)
        self.complete, self.record = True, dict(record)

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "_reader"):
            self._reader.close()
            if not self.complete and os.fstat(self._file.fileno()).st_size == 0:
                self._partial.unlink(missing_ok=True)
            self._file.close()

    def _begin(self) -> None:
        """Store the settings before the first write of this process, once."""
        if not self._begun:
            # the inode, which a rename does not change, shows later that the file is ours
            inode = identity(os.fstat(self._file.fileno()))[:1]
            self._settings.write({self.path.name: inode}, None)
            self._begun = True

    def _is_complete(self, free: Sequence[str]) -> bool:
        stored = self._settings.read()
        if self._partial.exists() and self._partial.stat().st_size > 0:
            what = f"holds rows of an interrupted command ({self._partial.name})"
            self._check(stored.settings, free, what)
            for one in differences(stored.settings, self._settings.given):
                log.info("%s: continuing finished rows, although %s", self.path, one)
            return False
        if not self.path.exists():
            return False
        known = (stored.files or {}).get(self.path.name)
        # the settings hold no identity of a file that came from elsewhere
        ours = known is not None and known == identity(self.path.stat())[: len(known)]
        self._check(stored.settings if ours else {}, (), "is there already")
        self.record = stored.record
        return True

    def _check(self, settings: Columns, free: Sequence[str], what: str) -> None:
        changed = differences(settings, self._settings.given, free)
        if not settings:
            raise InputError(self.path, f"{what}, and nothing tells how it was made", _ANEW)
        if changed:
            raise InputError(
                self.path, f"{what}, under other settings ({', '.join(changed)})", _ANEW
            )


class OutputFiles:
    """Files that are made together under `settings`.

    `complete` says that all of them are there under these settings, and `record` is what `finish`
    was given. Otherwise `begin` comes before the first byte is written, `finish` after the last;
    `leftovers` are what an interrupted command may have left to continue. With `restart` all of it
    is deleted. Settings whose keys are in `free` may differ: the files are made anew then. `option`
    names their place on the command line.

    Raises:
        InputError: what is there was made with other settings or came from elsewhere; the folder
            cannot be written; another process is at work.
    """

    def __init__(
        self,
        files: Sequence[Path],
        settings: Columns,
        *,
        leftovers: Sequence[Path] = (),
        free: Sequence[str] = (),
        restart: bool = False,
        option: str = "--out",
    ) -> None:
        self._anew = f"{_RESTART} {option}"
        self._files = tuple(files)
        self._leftovers = tuple(leftovers)
        first = self._files[0]
        self._settings = StoredSettings(first, settings)
        self._lock_path = first.with_name(f".{first.name}.lock")
        with writing(first, f"choose another {option}"):
            first.parent.mkdir(parents=True, exist_ok=True)
        self._lock = open_locked(self._lock_path, first)
        try:
            if restart:
                for path in (*self._files, *self._leftovers, self._settings.path):
                    path.unlink(missing_ok=True)
            stored = self._settings.read()
            self.complete = self._is_complete(stored)
            self.record: dict[str, object] = stored.record if self.complete else {}
            if not self.complete:
                self._check(stored, free)
        except BaseException:
            self._release()
            raise

    def begin(self) -> None:
        """Store the settings: files that are written from now on count as made with them."""
        self._settings.write(None, None)

    def finish(self, record: Columns) -> None:
        self._settings.write({file.name: identity(file.stat()) for file in self._files}, record)
        self.complete, self.record = True, dict(record)

    def __enter__(self) -> OutputFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def _is_complete(self, stored: Stored) -> bool:
        known = stored.files or {}
        return stored.settings == self._settings.given and all(
            file.exists() and known.get(file.name) == identity(file.stat()) for file in self._files
        )

    def _check(self, stored: Stored, free: Sequence[str]) -> None:
        """Check that what is there was made by an `OutputFiles` with the same settings.

        Raises InputError where it was not; settings in `free` may differ.
        """
        there = [file for file in self._files if file.exists()]
        begun = any(path.exists() and path.stat().st_size > 0 for path in self._leftovers)
        for file in there:
            # `files` is None while work is unfinished: then it made whatever is there
            ours = stored.settings and (
                stored.files is None or stored.files.get(file.name) == identity(file.stat())
            )
            if not ours:
                problem = "is there already, and nothing tells how it was made"
                raise InputError(file, problem, self._anew)
        changed = differences(stored.settings, self._settings.given, free)
        if changed and (there or begun):
            what = "is there already" if there else "was begun by an interrupted command"
            raise InputError(
                self._files[0],
                f"{what}, under other settings ({', '.join(changed)})",
                f"restore them, {self._anew}",
            )

    def _release(self) -> None:
        # nothing was made, so the settings are of no use
        if not any(path.exists() for path in (*self._files, *self._leftovers)):
            self._settings.path.unlink(missing_ok=True)
        self._lock_path.unlink(missing_ok=True)
        self._lock.close()


def refuse_input(output: Path, source: Path) -> None:
    """Refuse with InputError an output that is the same file as its source."""
    if output.exists() and source.exists() and output.samefile(source):
        raise InputError(source, "would be overwritten by what is made of it", "name another --out")


def output_path(given: str | None, source: str, stem: str, ending: str) -> Path | None:
    """Return the path that rows are written to, by default beside the source file.

    None is standard output. Raises InputError for standard output that is closed, a folder, a
    device, a link that leads nowhere, the input itself, or a suffix of another form than JSONL.
    """
    if given == "-":
        # the command line opens os.devnull where standard output was closed
        if getattr(sys.stdout, "name", "") == os.devnull:
            raise InputError("--out -", "standard output is closed", "redirect it to a file")
        return None
    file = Path(source).expanduser()
    beside = file.parent if file.is_file() else Path()
    if given == "":
        raise InputError("--out ''", "is no name of a file", "name one")
    path = Path(given).expanduser() if given else beside / f"{stem}.{ending}.jsonl"
    if path.is_symlink():  # the target of the link is replaced, not the link
        path = Path(os.path.realpath(path))
        if path.is_symlink():
            raise InputError(f"--out {given}", "is a symlink that leads nowhere", "name another")
    if path.is_dir():
        raise InputError(f"--out {path}", "is a folder", "name a file in it")
    if path.exists() and not path.is_file():  # a rename would replace a device or a pipe
        raise InputError(
            f"--out {path}", "is no file", "write to stdout with --out -, and redirect it"
        )
    if path.exists() and file.exists() and path.samefile(file):
        raise InputError(f"--out {path}", "is the file that is read", "name another")
    if path.suffix in (".gz", ".parquet", ".json"):
        raise InputError(f"--out {path}", "rows are written as JSONL", "name it .jsonl")
    return path


def _whole_row(line: bytes) -> dict[str, object] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if is_object(row) else None
