"""A JSONL file that grows row by row and survives a kill: a torn last row is cut off on opening."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from raft.files import full_disk_is_the_users


class AppendLog:
    """Rows with an `id`, in arrival order, indexed by id. Holds offsets in memory, never rows.

    A row whose id is there already is refused: nothing is drawn or scored twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets: dict[str, int] = {}
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - lives as long as the log
        self._end = self._recover()

    def append(self, row: dict[str, Any]) -> None:
        if row["id"] in self._offsets:
            raise RuntimeError(f"{self.path}: {row['id']} is there already")
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with full_disk_is_the_users(self.path):
            # unbuffered, and a short write (a disk that fills up) must not look like a whole row
            written = self._file.write(line)
            while written is not None and written < len(line):
                written += self._file.write(line[written:]) or 0
        self._offsets[row["id"]] = self._end
        self._end += len(line)

    def __contains__(self, row_id: str) -> bool:
        return row_id in self._offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def ids(self) -> Iterator[str]:
        return iter(self._offsets)

    def read(self, row_id: str) -> dict[str, Any]:
        self._file.seek(self._offsets[row_id])
        return json.loads(self._file.readline())

    def delete(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> AppendLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def _recover(self) -> int:
        self._file.seek(0)
        end = 0
        with open(self.path, "rb") as file:
            for line in file:
                row = _whole_row(line)
                if row is None:
                    break
                self._offsets[row["id"]] = end
                end += len(line)
        self._file.truncate(end)
        return end


def _whole_row(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None
