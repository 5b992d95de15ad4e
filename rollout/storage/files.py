"""Files that appear whole or not at all, locks, and what the disk refuses.

A full disk passes through everything here as the OSError that it is, with the file's name where
that is known: the command line reports it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import logging
import os
import re
import shutil
import socket
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from rollout.data.jsonl import Row, encode_rows, is_object, json_kind, read_jsonl, to_json
from rollout.errors import InputError

__all__ = [
    "GONE",
    "is_disk_full",
    "make_out_folder",
    "naming",
    "open_locked",
    "read_json",
    "read_rows",
    "remove_tree",
    "share_like_others",
    "whole_file",
    "write_json",
    "write_report_files",
    "write_rows",
    "write_whole",
    "writing",
]

log = logging.getLogger("rollout")

# what a kill in the middle of a deletion leaves; `RunFolder` clears it away
GONE = ".gone-"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# what flock says on cluster disks that are mounted without locks
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
_NO_ROOM_TEXT = re.compile(r"no space left|StorageFull|os error 28\b", re.IGNORECASE)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that there is no space left on the disk."""
    # libraries that write weights raise errors of their own
    return getattr(error, "errno", None) in _NO_ROOM or bool(_NO_ROOM_TEXT.search(str(error)))


@contextlib.contextmanager
def naming(path: object) -> Generator[None]:
    """Give an OSError the name of the file that it is about: a failed `write` knows none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextlib.contextmanager
def writing(where: object, fix: str) -> Generator[None]:
    """Turn an OSError into an InputError with `fix`; a full disk stays what it is."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise
        problem = f"cannot be written ({error.strerror or error})"
        raise InputError(where, problem, fix) from error


def open_locked(
    path: Path,
    where: object,
    busy: str = "another command is writing it",
    fix: str = "choose another --out",
) -> BinaryIO:
    """Open `path` and hold its lock until the file is closed.

    Args:
        where, fix: of the errors, and what to do about both.
        busy: the problem where another process holds the lock; `{holder}` is its process id, where
            that process wrote it into the file.

    Raises:
        InputError: another process holds the lock, or held it when this one opened the file, which
            is no longer under its name then; the file cannot be written.
        OSError: the disk is full.
    """
    with writing(where, fix):
        file = _Locked(path, "a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except BlockingIOError:
        mine = False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            file.close()
            raise
        file.hold(where)  # raises where somebody else does
        mine = path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))
    if not mine:
        file.seek(0)
        holder = (file.read(20) or b"").decode(errors="replace").strip() or "unknown"
        file.close()
        raise InputError(where, busy.format(holder=holder), f"wait for it, or {fix}")
    return cast(BinaryIO, file)


class _Locked(io.FileIO):
    """A file whose lock ends when it is closed; where disks have none, a file beside it is it."""

    _held: Path | None = None

    def hold(self, where: object) -> None:
        """Make the file that says who holds this one.

        Raises:
            InputError: another process has, or had and is on another machine.
        """
        held = Path(str(self.name)).with_name(f".{Path(str(self.name)).name}.held")
        own, holder = f"{os.getpid()} on {socket.gethostname()}", ""
        log.warning("%s: this disk has no file locks; %s is made instead", where, held)
        for _ in range(2):
            try:
                with open(held, "x", encoding="utf-8") as file:
                    file.write(own)
                self._held = held
                return
            except FileExistsError:
                holder = held.read_text(encoding="utf-8") if held.exists() else ""
                if not _has_ended(holder):
                    break
                held.unlink(missing_ok=True)
        self.close()
        raise InputError(
            where, f"is in use by process {holder or 'unknown'}", f"wait for it, or delete {held}"
        )

    def close(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.unlink(missing_ok=True)
        super().close()


def _has_ended(holder: str) -> bool:
    """Whether "pid on host" is a process of this machine that is no more."""
    pid, _, host = holder.partition(" on ")
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


@contextlib.contextmanager
def whole_file(path: Path) -> Generator[TextIO]:
    """A file to write beside `path`, renamed at the end: a reader sees the old one or the new.

    One hidden name per file, not one per attempt: a killed attempt's rest is written over.
    """
    partial = path.with_name(f".{path.name}.partial")
    with naming(path):
        try:
            with open(partial, "w", encoding="utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write(text)


def write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> int:
    """A JSONL file, whole or not at all; how many rows it has. NaN is refused: it is no JSON."""
    count = 0
    with whole_file(path) as file:
        for row in rows:
            file.write(encode_rows([row]).decode())
            count += 1
    return count


def write_json(path: Path, value: object) -> None:
    write_whole(path, to_json(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file that this toolkit wrote, one at a time."""
    return read_jsonl(path, _columns)


def remove_tree(folder: Path) -> None:
    """Delete a folder so that a kill in the middle leaves no half folder under its name."""
    if folder.exists():
        doomed = folder.with_name(f"{GONE}{uuid.uuid4().hex[:8]}")
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def share_like_others(folder: Path) -> None:
    """Give every file in a folder the mode that new files get: safetensors writes weights 0600."""
    mask = os.umask(0)
    os.umask(mask)
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o666 & ~mask)


def make_out_folder(out: str) -> Path:
    """Raises InputError where there can be no such folder: call it before work is done."""
    folder = Path(out).expanduser()
    with writing(f"--out-dir {out}", "name a folder"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_report_files(folder: Path, stem: str, markdown: str, value: object) -> list[Path]:
    """STEM.md to read, STEM.json for programs. Raises InputError where they cannot be written."""
    text, data = folder / f"{stem}.md", folder / f"{stem}.json"
    with writing(f"--out-dir {folder}", "choose another place"):
        write_whole(text, markdown)
        write_json(data, value)
    return [text, data]


def _columns(row: Row) -> dict[str, object]:
    if not is_object(row.value):
        raise InputError(
            row.where, f"holds {json_kind(row.value)} where an object is expected", "fix the line"
        )
    return row.value
