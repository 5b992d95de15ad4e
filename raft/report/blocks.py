"""Blocks of data in a page: compressed, base64, and inert until the page looks at one."""

from __future__ import annotations

import base64
import gzip
from typing import TextIO

from rollout.data.jsonl import encode_rows

__all__ = ["Blocks", "RowBlocks"]

# looking at one prompt unpacks one block: some milliseconds of a phone's time
_BYTES_PER_BLOCK = 1 << 19


class Blocks:
    """Writes numbered `<script>` elements of a type that no browser runs, as they come."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.count = 0

    def add(self, data: bytes) -> int:
        """Write one block and return its number. The same data make the same bytes."""
        packed = base64.b64encode(gzip.compress(data, 6, mtime=0)).decode("ascii")
        number = self.count
        self._file.write(
            f'<script type="application/octet-stream" id="block-{number}">{packed}</script>\n'
        )
        self.count += 1
        return number


class RowBlocks:
    """Gathers rows into blocks of JSON lines; a row larger than a block has one of its own."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._lines: list[bytes] = []
        self._size = 0
        self.first_rows: list[int] = []  # of every block: the number of its first row
        self.numbers: list[int] = []
        self._rows = 0

    def add(self, row: dict) -> None:
        line = encode_rows([row])
        if self._lines and self._size + len(line) > _BYTES_PER_BLOCK:
            self.finish()
        self._lines.append(line)
        self._size += len(line)
        self._rows += 1

    def finish(self) -> None:
        if self._lines:
            self.first_rows.append(self._rows - len(self._lines))
            self.numbers.append(self._blocks.add(b"".join(self._lines)))
        self._lines, self._size = [], 0
