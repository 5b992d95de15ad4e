"""Files that appear whole or not at all, file locks, and errors of the disk.

Errors of the machine (a full disk, a quota, a broken cable) pass as OSErrors, with the file's name
where that is known, and the command line reports them by `refusal`. Within `writing` all but a full
disk are InputErrors.
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
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO, cast

from rollout.data.jsonl import Row, encode_rows, is_object, json_kind, read_jsonl, to_json
from rollout.errors import InputError, naming

__all__ = [
    "GONE",
    "intact",
    "make_out_folder",
    "open_locked",
    "read_json",
    "read_rows",
    "refusal",
    "remove_tree",
    "share_like_others",
    "sync_to_disk",
    "whole_binary",
    "whole_file",
    "write_json",
    "write_report_files",
    "write_rows",
    "write_whole",
    "writing",
]

log = logging.getLogger("rollout")

# prefix of a folder that a killed deletion leaves; `RunFolder` deletes it
GONE = ".gone-"
_NO_ROOM = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "no space left on the disk (its quota is used up)",
    errno.EFBIG: "no space left on the disk for a larger file (see ulimit -f)",
}
# errors of a file or a disk that only the user can fix
_REFUSED = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENXIO, errno.ELOOP,
    errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EMFILE, errno.ENFILE,
}  # fmt: skip
# errors of flock on cluster disks that are mounted without locks
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
# libraries that write weights raise errors of their own, with the number in the text
_NUMBER_IN_TEXT = re.compile(r"(?:os error |Errno )(\d+)\b")
# a full disk in the words of the libraries; torch's writer finds fewer bytes than it wrote
_NO_ROOM_TEXT = re.compile(
    r"no space left|StorageFull|inline_container.*(unexpected pos|write failed)", re.IGNORECASE
)


def refusal(error: BaseException) -> InputError | None:
    """Return an InputError for an error of the disk or the system; None for any other error."""
    number, where = _errno(error), getattr(error, "filename", None)
    if number in _NO_ROOM:
        # our writes to files give their errors a name, so this one is about standard output
        where = where or ("standard output" if isinstance(error, OSError) else "the disk")
        fix = "make room, and run the same command again: what is finished is kept"
        return InputError(where, _NO_ROOM[number], fix)
    # an OSError without a file may be about a port or a process
    if number == errno.EIO or (number in _REFUSED and (where or not isinstance(error, OSError))):
        fix = "fix that, and run the same command again: what is finished is kept"
        return InputError(where or "the disk", f"the system says: {os.strerror(number)}", fix)
    return None


def _errno(error: BaseException) -> int:
    if isinstance(error, OSError):
        return error.errno or 0
    if _NO_ROOM_TEXT.search(str(error)):
        return errno.ENOSPC
    told = _NUMBER_IN_TEXT.search(str(error))
    return int(told[1]) if told else 0


@contextlib.contextmanager
def writing(where: object, fix: str) -> Generator[None]:
    """Turn an OSError of the block into an InputError with `fix`, except that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
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
        where, fix: the place and the fix in the errors.
        busy: the problem where another process holds the lock; `{holder}` is its process id, where
            that process wrote it into the file.

    Raises:
        InputError: another process holds the lock, or has renamed or deleted the file since this
            one opened it; the file cannot be written.
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
    """A file whose lock ends when it is closed; on disks without locks `.NAME.held` is the lock."""

    _held: Path | None = None

    def hold(self, where: object) -> None:
        """Create `.NAME.held`, which says which process holds this file.

        Raises:
            InputError: another process holds it, or one on another machine, which may have ended.
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
    """Return whether `holder`, "pid on host", is a process of this machine that has ended."""
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
    """Yield a text file that becomes `path` when the block ends; a reader sees the old or the new.

    Until then it is `.NAME.partial`, the same in every attempt, so that the rest of a killed
    attempt is overwritten. If the block raises, it is deleted.
    """
    # file names that are not UTF-8 hold halves of surrogate pairs; this writes their JSON escape
    how = partial(open, mode="w", encoding="utf-8", errors="backslashreplace")
    with _whole(path, how) as file:
        yield cast(TextIO, file)


@contextlib.contextmanager
def whole_binary(path: Path) -> Generator[BinaryIO]:
    """Yield a binary file that becomes `path` when the block ends, as in `whole_file`."""
    with _whole(path, partial(open, mode="wb")) as file:
        yield cast(BinaryIO, file)


@contextlib.contextmanager
def _whole(path: Path, how: Callable[[Path], IO[Any]]) -> Generator[IO[Any]]:
    unfinished = path.with_name(f".{path.name}.partial")
    with naming(path):
        try:
            with how(unfinished) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def sync_to_disk(paths: Iterable[Path]) -> None:
    """Flush the contents of files, and the entries of folders, to the disk (fsync)."""
    for path in paths:
        with naming(path):
            opened = os.open(path, os.O_RDONLY)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)


def write_whole(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write(text)


def write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> int:
    """Write a JSONL file, whole or not at all, and return its number of rows.

    Raises ValueError for NaN and infinity, which JSON does not have.
    """
    count = 0
    with whole_file(path) as file:
        for row in rows:
            file.write(encode_rows([row]).decode())
            count += 1
    return count


def write_json(path: Path, value: object) -> None:
    write_whole(path, to_json(value, indent=1) + "\n")


@contextlib.contextmanager
def intact(path: object) -> Generator[None]:
    """Turn errors of reading a damaged file of this toolkit into an InputError that names it."""
    try:
        yield
    except (InputError, OSError):
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        problem = f"is damaged ({type(error).__name__}: {error})"
        raise InputError(path, problem, "restore it") from error


def read_json(path: Path) -> Any:
    """Return the JSON value in a file of this toolkit. Raises InputError for a damaged file."""
    with naming(path), intact(path):
        return json.loads(path.read_text(encoding="utf-8"))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSONL file of this toolkit, one at a time.

    Raises InputError for a line that is not a JSON object.
    """
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
    """Create the folder of `--out-dir`, before work is done, and return its path.

    Raises InputError where it cannot be created.
    """
    folder = Path(out).expanduser()
    with writing(f"--out-dir {out}", "name a folder"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_report_files(folder: Path, stem: str, markdown: str, value: object) -> list[Path]:
    """Write STEM.md for readers and STEM.json for programs, and return both paths.

    Raises InputError where they cannot be written.
    """
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
