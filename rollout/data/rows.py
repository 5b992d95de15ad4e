"""Read raw rows from a file or a `datasets` name, each with its place, and their ids.

Rows are read one after another. `rollout.data.prompts` and `rollout.data.rows_to_score` interpret
them.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import json
import re
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from types import ModuleType

from rollout.data.bad_rows import SkippedRow, skipped_before
from rollout.data.forms import renamed
from rollout.data.jsonl import Row, encodable, is_list, is_object, json_kind, parse_json
from rollout.data.sources import Kind, Source
from rollout.errors import InputError

__all__ = ["Row", "RowIds", "read_rows", "row_id", "without_error"]

_LINES_AT_A_TIME = 4096
# in CSV, where all cells are texts: names of columns of numbers, and of columns of JSON
_NUMBERS = re.compile(r"(?i)(score|reward|rank|rating|margin|label|preference)s?$")
_ESCAPED = re.compile("[\udc80-\udcff]")
_LISTS = ("messages", "conversations", "responses", "prompt", "chosen", "rejected", "tools")


def read_rows(
    source: Source, *, separator: str | None = None, keep_errors: bool = False
) -> Iterator[Row]:
    """Yield every `Row` of `source`, in order, without holding the file in memory (`.json` apart).

    Plain text comes as `{"prompt": text}`: a line, or a document between two `separator`s, without
    the blanks around it. All other rows are whatever the file holds, under the names that
    `source.columns` gives. Blank lines and blank documents are skipped. A row's number is its line
    in JSONL and in text read by lines, otherwise its place among the rows or documents; numbers
    go on from one shard to the next.

    Raises InputError, with its line, for a row that cannot be decoded, and `SkippedRow` for one
    that an earlier command skipped. With `keep_errors` such an error in JSONL, CSV or text, or of
    `source.columns`, is the row's value, and reading goes on, as it does after a skipped row. Other
    errors are always raised.
    """
    if separator is not None and source.kind != "text":
        raise InputError(
            source.name,
            "a separator splits plain text only",
            "leave prompts.separator out",
        )
    if separator == "":
        raise InputError(source.name, "the separator is empty", "give it a text or leave it out")
    rows = (_named(row, source) for row in _raw_rows(source, separator))
    return rows if keep_errors else map(without_error, rows)


def without_error(row: Row) -> Row:
    """Return `row`. Raises its value where that is an InputError."""
    if isinstance(row.value, InputError):
        raise row.value
    return row


def _named(row: Row, source: Source) -> Row:
    if not is_object(given := row.value):
        return row
    if (reason := skipped_before(given)) is not None:
        return replace(row, value=SkippedRow(row.where, reason), given=given)
    if not source.columns:
        return row
    try:
        return replace(row, value=renamed(given, source.columns, row.where), given=given)
    except InputError as error:
        return replace(row, value=error, given=given)


def _raw_rows(source: Source, separator: str | None) -> Iterator[Row]:
    if source.kind == "dataset":
        yield from _dataset_rows(source)
        return
    read = _READERS[source.kind]
    last = 0
    for file in source.files:
        one = _File(file, source.name if len(source.files) == 1 else str(file))
        before = last
        for row in read(one) if separator is None else _documents(one, separator):
            last = before + row.number
            yield replace(row, number=last) if before else row


@dataclass(frozen=True, slots=True)
class _File:
    """One file, and its name in errors."""

    path: Path
    name: str


def row_id(columns: dict[str, object], row: Row, stem: str) -> str:
    """Return the id of a row, by default `{stem}-{number:06d}`.

    Raises InputError for an id that is neither a non-empty string nor an integer.
    """
    given = columns.get("id")
    if given is None:
        return f"{stem}-{row.number:06d}"
    if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
        raise InputError(
            row.where, f"id is {json_kind(given)}", "make it a non-empty string, or leave it out"
        )
    return encodable(str(given), row.where, "id")


def _lines(source: _File, bad: list[str] | None = None) -> Iterator[str]:
    """Yield the lines of a file of which a row may take several. Bytes that are no UTF-8 stay in
    them, as lone surrogates, and the places of such lines are added to `bad`."""
    for where, raw in _raw_lines(source):
        text = raw.decode(errors="surrogateescape")
        if bad is not None and _ESCAPED.search(text):
            bad.append(where)
        yield text


def _not_utf8(where: str) -> InputError:
    return InputError(where, "not UTF-8", "save the file as UTF-8")


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _not_utf8(where) from None


def _raw_lines(source: _File) -> Iterator[tuple[str, bytes]]:
    line_number = 0
    try:
        with open(source.path, "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        opener = gzip.open if zipped or source.path.suffix.lower() == ".gz" else open
        with opener(source.path, "rb") as stream:
            for line_number, raw in enumerate(stream, start=1):
                # some editors open a UTF-8 file with a byte order mark, which JSON refuses
                line = raw.removeprefix(b"\xef\xbb\xbf") if line_number == 1 else raw
                yield f"{source.name}:{line_number}", line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        where, problem = f"{source.name}:{line_number + 1}", f"broken gzip data ({error})"
        raise InputError(where, problem, "compress the file again") from None
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        raise InputError(source.name, problem, "check the file") from None


def _text_rows(source: _File) -> Iterator[Row]:
    for number, (where, line) in enumerate(_raw_lines(source), start=1):
        try:
            text = _decoded(line, where).strip()
        except InputError as error:
            yield Row(number, where, error)
        else:
            if text:
                yield Row(number, where, {"prompt": text})


def _jsonl_rows(source: _File) -> Iterator[Row]:
    for number, (where, line) in enumerate(_raw_lines(source), start=1):
        if line.strip():
            try:
                value = parse_json(_decoded(line, where), where)
            except InputError as error:
                value = error
            yield Row(number, where, value)


def _json_rows(source: _File) -> Iterator[Row]:
    text = "".join(_decoded(line, where) for where, line in _raw_lines(source))
    try:
        rows = json.loads(text)
    except RecursionError as error:
        raise InputError(source.name, f"not readable JSON ({error})", "fix it") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{source.name}:{error.lineno}",
            f"not valid JSON ({error.msg.removesuffix(' at')})",
            "fix it, or name a file of one object per line .jsonl",
        ) from None
    if not is_list(rows):
        problem = f"holds {json_kind(rows)} where a list of rows is expected"
        raise InputError(f"{source.name}:1", problem, "wrap it in [ ]")
    for number, value in enumerate(rows, start=1):
        yield Row(number, f"{source.name}: row {number}", value)


def _documents(source: _File, separator: str) -> Iterator[Row]:
    """Split text on `separator`, a few thousand lines in memory at a time."""
    lines = _lines(source)
    number, line_number, rest = 0, 1, ""
    while True:
        # many lines per split: line by line, a long document would be copied at each of its lines
        chunk = "".join(islice(lines, _LINES_AT_A_TIME))
        *documents, rest = (rest + chunk).split(separator)
        if not chunk:
            documents, rest = [*documents, rest], ""
        for document in documents:
            if text := document.strip():
                number += 1
                blank_lines = document[: document.index(text[0])].count("\n")
                where = f"{source.name}:{line_number + blank_lines}"
                value: object = {"prompt": text}
                if escaped := _ESCAPED.search(document):
                    line = line_number + document.count("\n", 0, escaped.start())
                    value = _not_utf8(f"{source.name}:{line}")
                yield Row(number, where, value)
            line_number += document.count("\n") + separator.count("\n")
        if not chunk:
            return


def _parquet_rows(source: _File) -> Iterator[Row]:
    arrow: ModuleType = importlib.import_module("pyarrow")
    parquet: ModuleType = importlib.import_module("pyarrow.parquet")
    try:
        number = 0
        with parquet.ParquetFile(source.path) as file:
            for batch in file.iter_batches(batch_size=_LINES_AT_A_TIME):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(number, f"{source.name}: row {number}", value)
    except (arrow.ArrowException, OSError) as error:
        raise InputError(
            source.name,
            f"not readable as Parquet ({_first_line(error)})",
            "write the file again",
        ) from None


def _csv_rows(source: _File) -> Iterator[Row]:
    """Yield the rows of CSV or TSV. Cells are texts, except numbers (scores) and JSON by name."""
    csv.field_size_limit(1 << 30)
    tabs = source.path.name.lower().removesuffix(".gz").endswith(".tsv")
    bad: list[str] = []  # lines of the row that is read
    reader = csv.DictReader(_lines(source, bad), delimiter="\t" if tabs else ",")
    try:
        if reader.fieldnames is not None and bad:
            raise _not_utf8(bad[0])
        for number, cells in enumerate(reader, start=1):
            where = f"{source.name}:{reader.line_num}"
            yield Row(number, where, _not_utf8(bad[0]) if bad else _table_row(cells, where))
            bad.clear()
    except csv.Error as error:
        raise InputError(f"{source.name}:{reader.line_num}", f"no CSV ({error})") from None


def _table_row(cells: Mapping[str | None, str], where: str) -> object:
    """Return the row of a table, or the InputError of one that cannot be read."""
    if None in cells:  # the cells beyond the names
        return InputError(where, "has more cells than the first line has names", "fix it")
    return {name: _cell(name, text) for name, text in cells.items() if name is not None}


def _cell(name: str, text: str | None) -> object:
    if text is None or (not text and name not in _LISTS):
        return None
    if (name in _LISTS and text[:1] in ("[", "{")) or _NUMBERS.search(name):
        try:
            return json.loads(text.lower() if text in ("True", "False") else text)
        except (ValueError, RecursionError):
            return text
    return text


def _saved_rows(source: _File) -> Iterator[Row]:
    """Yield the rows of a dataset that `datasets` wrote with `save_to_disk`."""
    datasets: ModuleType = importlib.import_module("datasets")
    try:
        rows: Iterable[object] = datasets.load_from_disk(str(source.path))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(source.name, f"cannot be loaded ({_first_line(error)})") from error
    for number, value in enumerate(rows, start=1):
        yield Row(number, f"{source.name}: row {number}", value)


_READERS: dict[Kind, Callable[[_File], Iterator[Row]]] = {
    "jsonl": _jsonl_rows,
    "json": _json_rows,
    "csv": _csv_rows,
    "parquet": _parquet_rows,
    "text": _text_rows,
    "saved": _saved_rows,
}


def _dataset_rows(source: Source) -> Iterator[Row]:
    datasets: ModuleType = importlib.import_module("datasets")
    name, _, config = source.name.partition(":")
    try:
        rows: Iterable[object] = datasets.load_dataset(
            *([name, config] if config else [name]), split=source.split
        )
    except Exception as error:  # the hub, the network, the cache and the split each fail their way
        why = f"{type(error).__name__}: {_first_line(error)}"
        problem = f"neither a file nor a dataset that can be loaded, split {source.split!r} ({why})"
        raise InputError(source.name, problem, "check the name, or name a file") from error
    for number, value in enumerate(rows, start=1):
        yield Row(number, f"{source.name}: row {number}", value)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class RowIds:
    """The ids that were seen, as 64-bit digests, and which of them were seen more than once."""

    def __init__(self) -> None:
        self._digests = array("Q")
        self._twice: set[int] | None = None

    def add(self, id: str) -> None:
        self._digests.append(_digest(id))
        self._twice = None

    def repeats(self, id: str) -> bool:
        """Return whether `id` was added more than once."""
        return bool(self._repeated()) and _digest(id) in self._repeated()

    def _repeated(self) -> set[int]:
        if self._twice is None:
            import numpy as np

            digests_N = np.sort(np.frombuffer(self._digests, dtype=np.uint64))
            self._twice = set(digests_N[1:][digests_N[1:] == digests_N[:-1]].tolist())
        return self._twice


def _digest(id: str) -> int:
    return int.from_bytes(
        blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )
