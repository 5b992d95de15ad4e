"""Files that appear whole or not at all, and a full disk said in one line.

The folder that a command's report goes to: Markdown to read, JSON for programs.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from rollout.data.jsonl import encode_rows
from rollout.errors import InputError

__all__ = [
    "make_out_folder",
    "write_report_files",
]

# what a kill in the middle of a deletion leaves; `RunFolder` clears it away
GONE = ".gone-"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_ROOM_TEXT = re.compile(r"no space left|StorageFull|os error 28\b", re.IGNORECASE)


@contextlib.contextmanager
def disk_full_as_input_error(path: Path) -> Iterator[None]:
    """Turn "no space left" into an `InputError`: freeing space and rerunning continues the run."""
    try:
        yield
    except Exception as error:
        # weight files are written by libraries that say it in words of their own
        if getattr(error, "errno", None) not in _NO_ROOM and not _NO_ROOM_TEXT.search(str(error)):
            raise
        raise InputError(
            path,
            "no space left on the disk",
            "free some and run the same command again, what is finished is kept",
        ) from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A file to write beside `path`, renamed at the end: a reader sees the old one or the new.

    One hidden name per file, not one per attempt: a killed attempt's rest is written over.
    """
    partial = path.with_name(f".{path.name}.partial")
    with disk_full_as_input_error(path):
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


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """A JSONL file, whole or not at all; how many rows it has. NaN is refused: it is no JSON."""
    count = 0
    with whole_file(path) as file:
        for row in rows:
            file.write(encode_rows([row]).decode())
            count += 1
    return count


def write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file that this toolkit wrote, one at a time."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{path}:{number}",
                    f"damaged row ({error.msg})",
                    "fix it, or delete the file",
                ) from error


def remove_tree(folder: Path) -> None:
    """Delete a folder so that a kill in the middle leaves no half folder under its name."""
    if folder.exists():
        doomed = folder.with_name(f"{GONE}{uuid.uuid4().hex[:8]}")
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def make_out_folder(out: str) -> Path:
    """Raises InputError where there can be no such folder: call it before work is done."""
    folder = Path(out).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out-dir {out}", error.strerror, "name a folder") from error
    return folder


def write_report_files(folder: Path, stem: str, markdown: str, value: Any) -> list[Path]:
    """STEM.md and STEM.json. Raises InputError where they cannot be written."""
    text, data = folder / f"{stem}.md", folder / f"{stem}.json"
    try:
        with disk_full_as_input_error(folder):
            write_whole(text, markdown)
            write_json(data, value)
    except OSError as error:
        raise InputError(f"--out-dir {folder}", error.strerror, "choose another place") from error
    return [text, data]
