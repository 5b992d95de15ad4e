"""Raw rows out of a file or a `datasets` name, each with its place, and their ids.

Rows are read one after another. What they mean is said elsewhere: `rollout.data.prompts`,
`rollout.data.scored_rows`.
"""

from __future__ import annotations

import gzip
import importlib
import json
import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Literal

from rollout.data.jsonl import Row, is_list, json_kind, parse_json
from rollout.errors import InputError

__all__ = ["Row", "RowIds", "Source", "find_source", "read_rows", "row_id"]

Kind = Literal["jsonl", "json", "parquet", "text", "dataset"]

_KIND_OF_SUFFIX: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".txt": "text",
}
# a missing path with one of these endings is a mistyped file, not the name of a dataset
_FILE_SUFFIXES = {*_KIND_OF_SUFFIX, ".gz", ".csv", ".tsv", ".ndjson", ".zip", ".zst", ".yaml"}
_READABLE = ".jsonl, .json and .txt (each also with .gz) and .parquet"
_LINES_AT_A_TIME = 4096


@dataclass(frozen=True, slots=True)
class Source:
    """What to read: `name` as the user wrote it, `stem` for derived ids."""

    name: str
    kind: Kind
    stem: str


def find_source(path: str | Path) -> Source:
    """Say what `path` is: an existing file by its suffix, otherwise the name of a dataset.

    Raises InputError for a folder, a missing file, or a suffix that no reader knows.
    """
    name = str(path)
    file = Path(name).expanduser()
    if file.is_dir():
        raise InputError(name, "is a folder", f"name one file ({_READABLE})")
    if file.exists():
        return Source(name, _kind_of_file(file, name), _stem(file))
    if isinstance(path, Path) or _looks_like_file(name):
        raise InputError(name, "no such file", "check the path")
    return Source(name, "dataset", name.rsplit("/", 1)[-1].replace(":", "-"))


def read_rows(
    source: Source, *, split: str = "train", separator: str | None = None
) -> Iterator[Row]:
    """Yield every `Row` of `source`, in order, without holding the file in memory (`.json` apart).

    Plain text comes as `{"prompt": text}`: a line, or a document between two `separator`s, without
    the blanks around it. All other rows are whatever the file holds. Blank lines and blank
    documents are skipped. A row's number is its line in JSONL and in text read by lines, otherwise
    its place among the rows or documents.

    Raises InputError for a row that cannot be decoded, with its line.
    """
    if separator is not None and source.kind != "text":
        raise InputError(
            source.name,
            "a separator splits plain text only",
            "leave prompts.separator out",
        )
    if separator == "":
        raise InputError(source.name, "the separator is empty", "give it a text or leave it out")
    if source.kind == "dataset":
        return _dataset_rows(source, split)
    if source.kind == "parquet":
        return _parquet_rows(source)
    if source.kind == "json":
        return _json_rows(source)
    if source.kind == "jsonl":
        return _jsonl_rows(source)
    return _text_rows(source) if separator is None else _documents(source, separator)


def row_id(columns: dict[str, object], row: Row, stem: str) -> str:
    """The id a row gives, or one by its number. Raises InputError for an id that is no name."""
    given = columns.get("id")
    if given is None:
        return f"{stem}-{row.number:06d}"
    if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
        raise InputError(
            row.where, f"id is {json_kind(given)}", "make it a non-empty string, or leave it out"
        )
    return str(given)


def _kind_of_file(file: Path, name: str) -> Kind:
    suffixes = [s.lower() for s in file.suffixes]
    zipped = suffixes[-1:] == [".gz"]
    suffix = suffixes[-2] if zipped and len(suffixes) > 1 else (suffixes or [""])[-1]
    kind = _KIND_OF_SUFFIX.get(suffix)
    if kind is None or (zipped and kind == "parquet"):
        raise InputError(name, "cannot tell the file's form from its suffix", f"use {_READABLE}")
    return kind


def _stem(file: Path) -> str:
    return Path(file.stem).stem if file.suffix.lower() == ".gz" else file.stem


def _looks_like_file(name: str) -> bool:
    return (
        name.startswith((".", "/", "~"))
        or "\\" in name
        or name.count("/") > 1
        or Path(name).suffix.lower() in _FILE_SUFFIXES
    )


def _lines(source: Source) -> Iterator[tuple[str, str]]:
    """(where, text) per line. Each line is decoded by itself, so that an error can name it."""
    file = Path(source.name).expanduser()
    line_number = 0
    try:
        opener = gzip.open if file.suffix.lower() == ".gz" else open
        with opener(file, "rb") as stream:
            for line_number, raw in enumerate(stream, start=1):
                # some editors open a UTF-8 file with a byte order mark, which JSON refuses
                text = raw.decode("utf-8-sig" if line_number == 1 else "utf-8")
                yield f"{source.name}:{line_number}", text
    except UnicodeDecodeError:
        raise InputError(
            f"{source.name}:{line_number}", "not UTF-8", "save the file as UTF-8"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(
            f"{source.name}:{line_number + 1}",
            f"broken gzip data ({error})",
            "compress the file again",
        ) from None
    except OSError as error:
        raise InputError(
            source.name,
            f"cannot be read ({error.strerror or error})",
            "check the file",
        ) from None


def _text_rows(source: Source) -> Iterator[Row]:
    for number, (where, line) in enumerate(_lines(source), start=1):
        if text := line.strip():
            yield Row(number, where, {"prompt": text})


def _jsonl_rows(source: Source) -> Iterator[Row]:
    for number, (where, line) in enumerate(_lines(source), start=1):
        if line.strip():
            yield Row(number, where, parse_json(line, where))


def _json_rows(source: Source) -> Iterator[Row]:
    text = "".join(line for _, line in _lines(source))
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{source.name}:{error.lineno}",
            f"not valid JSON ({error.msg})",
            "fix it, or name a file of one object per line .jsonl",
        ) from None
    if not is_list(rows):
        raise InputError(
            f"{source.name}:1",
            f"holds {type(rows).__name__} where a list of rows is expected",
            "wrap it in [ ]",
        )
    for number, value in enumerate(rows, start=1):
        yield Row(number, f"{source.name}: row {number}", value)


def _documents(source: Source, separator: str) -> Iterator[Row]:
    """Split text on `separator`, a few thousand lines in memory at a time."""
    lines = (line for _, line in _lines(source))
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
                yield Row(number, where, {"prompt": text})
            line_number += document.count("\n") + separator.count("\n")
        if not chunk:
            return


def _parquet_rows(source: Source) -> Iterator[Row]:
    arrow: ModuleType = importlib.import_module("pyarrow")
    parquet: ModuleType = importlib.import_module("pyarrow.parquet")
    try:
        number = 0
        with parquet.ParquetFile(Path(source.name).expanduser()) as file:
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


def _dataset_rows(source: Source, split: str) -> Iterator[Row]:
    datasets: ModuleType = importlib.import_module("datasets")
    name, _, config = source.name.partition(":")
    try:
        rows: Iterable[object] = datasets.load_dataset(
            *([name, config] if config else [name]), split=split
        )
    except Exception as error:  # the hub, the network, the cache and the split each fail their way
        raise InputError(
            source.name,
            f"neither a file nor a dataset that can be loaded, split {split!r} "
            f"({type(error).__name__}: {_first_line(error)})",
            "check the name, or name a file",
        ) from error
    for number, value in enumerate(rows, start=1):
        yield Row(number, f"{source.name}: row {number}", value)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class RowIds:
    """Digests of the ids seen; where an id stood, a second reading tells if it is ever asked."""

    def __init__(self) -> None:
        self._digests = array("Q")

    def add(self, id: str) -> None:
        self._digests.append(_digest(id))

    def check(self, ids_and_places: Iterable[tuple[str, str]]) -> None:
        """Raises InputError that names both places of the first id that stands twice.

        `ids_and_places` are those of all rows once more, in order; read only where there are such.
        """
        import numpy as np

        digests_N = np.sort(np.frombuffer(self._digests, dtype=np.uint64))
        twice = set(digests_N[1:][digests_N[1:] == digests_N[:-1]].tolist())
        if not twice:
            return
        places: dict[str, str] = {}
        for id, where in ids_and_places:
            if id in places:
                raise InputError(
                    where,
                    f"id {id!r} stands at {places[id]} already",
                    "give each row its own id, or none",
                )
            if _digest(id) in twice:
                places[id] = where


def _digest(id: str) -> int:
    return int.from_bytes(
        blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )
