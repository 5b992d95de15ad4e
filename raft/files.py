"""Files that appear whole or not at all, and a full disk said in one line."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rollout.errors import InputError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def full_disk_is_the_users(path: Path) -> Iterator[None]:
    """Turn "no space left" into an `InputError`: freeing space and rerunning continues the run."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise InputError(
            f"{path}: no space left on the disk; free some and run the same command again, "
            "what is finished is kept"
        ) from error


def write_whole(path: Path, text: str) -> None:
    """Write beside `path` and rename: a reader sees the old file or the new one."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with full_disk_is_the_users(path):
        try:
            with open(partial, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


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
                    f"{path}:{number}: damaged row ({error.msg}); delete the file to draw it again"
                ) from error


def remove_tree(folder: Path) -> None:
    """Delete a folder so that a kill in the middle leaves no half folder under its name."""
    if folder.exists():
        doomed = folder.with_name(f".gone-{uuid.uuid4().hex[:8]}")
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
