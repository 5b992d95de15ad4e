"""Rows to score out of a file or a dataset, and a first reading that finds every broken one."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from raft.progress import Progress
from raft.row_ids import RowIds
from raft.row_json import json_columns
from raft.score_rows import Form, ScoreRow, parse_row
from rollout.errors import InputError
from rollout.rows import find_source, read_rows

__all__ = ["Checked", "RowReader"]


@dataclass(frozen=True, slots=True)
class Checked:
    """A whole input whose rows are all readable: how many they are, and a digest of them."""

    rows: int
    conversations: int
    digest: str


class RowReader:
    """Reads rows as `form`, or each as the one form that its columns fit; `split` is a dataset's.

    Raises:
        InputError: the file is missing or of an unknown form.
    """

    def __init__(self, name: str, *, split: str = "train", form: Form | None = None) -> None:
        with _without_config_keys():
            self.source = find_source(name)
        self.stem = self.source.stem
        self._split = split
        self._form: Form | None = form

    def rows(self) -> Iterator[ScoreRow]:
        """Every row, one at a time. Raises InputError that begins with a row's place."""
        with _without_config_keys():
            for row in read_rows(self.source, split=self._split):
                found = parse_row(row, self.stem, self._form)
                yield replace(found, columns=json_columns(found.columns, found.where))

    def check(self, check: Callable[[ScoreRow], Any]) -> Checked:
        """Read every row, and call `check` with it.

        Raises InputError for a row that cannot be read, an id that stands twice, an empty file.
        """
        ids, digest = RowIds(), hashlib.blake2b(digest_size=16)
        rows = conversations = 0
        with Progress("checking", 0) as bar:
            for row in self.rows():
                check(row)
                ids.add(row.id)
                digest.update(json.dumps(row.columns).encode() + b"\n")
                rows, conversations = rows + 1, conversations + row.conversations
                bar.advance()
        if not rows:
            raise InputError(f"{self.source.name}: holds no rows; name a file with at least one")
        ids.check((row.id, row.where) for row in self.rows())
        return Checked(rows, conversations, digest.hexdigest())


@contextlib.contextmanager
def _without_config_keys() -> Iterator[None]:
    """The reader of files speaks of a config's keys; a command line has none of these."""
    try:
        yield
    except InputError as error:
        text = str(error).replace("the path in prompts.path", "the path")
        raise InputError(text.replace("prompts.path", "the name")) from error
