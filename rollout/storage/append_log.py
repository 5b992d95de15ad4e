"""A JSONL file that grows row by row and survives a kill: opening it removes a torn last row."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

from rollout.data.jsonl import encode_rows, is_object
from rollout.errors import InputError, naming


class AppendLog:
    """Rows with an `id`, in arrival order, indexed by id. Holds offsets in memory, never rows.

    A row whose id is there already is refused: nothing is drawn or scored twice.

    Raises:
        InputError: a row before the last one is damaged, which a kill cannot cause.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._spans: dict[str, tuple[int, int]] = {}  # id -> (offset, length)
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - lives as long as the log
        self._end = self._recover()

    def append(self, row: Mapping[str, object]) -> None:
        """Add a row with a string as `id`. Raises RuntimeError for an id that is there already."""
        row_id = str(row["id"])
        if row_id in self._spans:
            raise RuntimeError(f"{self.path}: {row_id} is there already")
        line = encode_rows([row])
        with naming(self.path), self._undone_on_error():
            # unbuffered, and a short write (a disk that fills up) must not look like a whole row
            written = 0
            while written < len(line):
                written += self._file.write(line[written:]) or 0
        self._spans[row_id] = (self._end, len(line))
        self._end += len(line)

    def __contains__(self, row_id: str) -> bool:
        return row_id in self._spans

    def __len__(self) -> int:
        return len(self._spans)

    def ids(self) -> Iterator[str]:
        return iter(self._spans)

    def read(self, row_id: str) -> dict[str, object]:
        offset, length = self._spans[row_id]
        return json.loads(os.pread(self._file.fileno(), length, offset))

    def delete(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> AppendLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @contextlib.contextmanager
    def _undone_on_error(self) -> Generator[None]:
        """Remove what a failed block wrote of a row, so that the next row begins a new line."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
            raise

    def _recover(self) -> int:
        end, torn = 0, None
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if torn is not None:
                    raise InputError(
                        f"{self.path}:{torn}",
                        "damaged row in the middle of the file",
                        "delete that line to draw it again",
                    )
                row_id = _id_of_whole_row(line)
                if row_id is None:
                    torn = number
                    continue
                self._spans[row_id] = (end, len(line))
                end += len(line)
        if torn is not None:
            self._file.truncate(end)
        return end


def _id_of_whole_row(line: bytes) -> str | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row: object = json.loads(line)
    except ValueError:
        return None
    found = row.get("id") if is_object(row) else None
    return found if isinstance(found, str) else None
