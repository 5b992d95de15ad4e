"""Compute hidden states of conversations once, into a file. This module knows nothing of labels.

Rows go to `NAME.npy.partial` a chunk at a time, and each whole chunk to `NAME.npy.log` with a
digest of the token ids it was computed from. A killed extraction continues after its last whole
chunk, batches being made within chunks, and ends in the same bytes. Memory holds one chunk.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, TypedDict, cast

import numpy as np
import torch

from rewards.encoding.encoder import Encoder
from rewards.encoding.formats import Scorable
from rewards.inference.backbone import Backbone
from rewards.inference.transformers import TransformersEngine
from rewards.models.transformer import state_size
from rewards.scoring.job import in_order
from rewards.training import distributed
from rewards.types import RewardError, calls_at_once
from rollout.types import InputError

__all__ = ["FeatureType", "Positions", "StateReader", "States", "extract", "last_token"]

log = logging.getLogger("rewards")

FeatureType = Literal["float32", "float16"]
# token ids and a name for messages -> the positions of one row whose states are kept
Positions = Callable[[Sequence[int], str], Sequence[int]]
# token ids, names, places (None: too long) and digest of a chunk
_Missing = tuple[list[list[int]], list[str], list[list[int] | None], str]
_FORMAT = 1
_WITNESSES = 256  # weights per tensor that tell one model from another
_SILENCE = 30.0  # seconds between reports of progress


def last_token(ids: Sequence[int], name: str) -> Sequence[int]:
    """Return the position of a row's last token, where rewards are read."""
    return (len(ids) - 1,)


class States(Protocol):
    """A source of hidden states: a `StateReader`, or several in workers."""

    def about_states(self) -> dict[str, object]: ...  # as JSON; "width" is that of a state

    def states(
        self, rows: Sequence[Sequence[int]], places: Sequence[Sequence[int]], names: Sequence[str]
    ) -> np.ndarray:
        """Return the states (N, Q, H) of N rows of token ids at Q places each."""
        ...


class StateReader:
    """A reader of hidden states from a frozen transformer of this process."""

    def __init__(self, backbone: Backbone, batch_tokens: int | None = None) -> None:
        self._backbone, self._batch_tokens = backbone, batch_tokens

    def about_states(self) -> dict[str, object]:
        backbone = self._backbone
        return {
            "model": fingerprint(backbone.model), "layout": backbone.layout,
            "device": backbone.device.type, "width": state_size(backbone.model.config),
        }  # fmt: skip

    def states(
        self, rows: Sequence[Sequence[int]], places: Sequence[Sequence[int]], names: Sequence[str]
    ) -> np.ndarray:
        engine = TransformersEngine(self._backbone, _States(places), self._batch_tokens)
        return engine.run(rows, names)["states"]


def extract(
    reader: States,
    encoder: Encoder,
    positions: Positions,
    conversations: Iterable[Scorable],
    file: Path,
    *,
    states: int = 1,
    dtype: FeatureType = "float32",
    chunk_rows: int = 512,
    longest: int | None = None,
    name: Callable[[int], str] = "conversation {}".format,
) -> np.ndarray:
    """Extract hidden states (N, Q, H) of N conversations at Q = `states` positions into `file`.

    Returns them mapped from the file, read only. Conversations come from an iterator, and those
    with a common beginning share its computation when they are in the same chunk. Conversations of
    more than `longest` tokens are skipped: their states are NaN, and the log counts them. What is
    there already is kept: the whole `file`, or the chunks of an extraction that was killed. A
    reader that takes several calls at once is given a chunk in each; the file is the same. Raises
    `InputError` when what is there was made by another model, settings or conversations; what
    `encoder` and `positions` raise; `RewardError` for a state that is no finite number.
    """
    if distributed.count() > 1:
        raise InputError("states", "are extracted by one process", "start this without torchrun")
    if chunk_rows < 1 or states < 1:
        raise InputError(f"chunk_rows={chunk_rows} and states={states}", "must be 1 or more")
    about = reader.about_states()
    shape = (states, cast(int, about.pop("width")))
    made_by = {
        "format": _FORMAT, **about, "shape": list(shape), "dtype": dtype,
        "chunk_rows": chunk_rows, "longest": longest,
    }  # fmt: skip

    def missing() -> Iterator[_Missing]:
        for chunk in _chunks(conversations, chunk_rows):
            names = [name(store.seen + index) for index in range(len(chunk))]
            rows = encoder.encode(chunk, names)
            places = [
                None if longest is not None and len(row) > longest else [*positions(row, own)]
                for row, own in zip(rows, names, strict=True)
            ]
            digest = _digest(rows, places)
            if not store.has(len(rows), digest):
                yield rows, names, places, digest

    run = partial(_states_of, reader, shape, np.dtype(dtype))
    with _Store(file, shape, np.dtype(dtype), made_by) as store:
        for chunk, result in in_order(run, missing(), calls_at_once(reader)):
            store.append(result(), chunk[3], skipped=chunk[2].count(None))
        return store.finish()


def _states_of(
    reader: States, shape: tuple[int, int], dtype: np.dtype, chunk: _Missing
) -> np.ndarray:
    rows, names, places, _ = chunk
    array = np.full((len(rows), *shape), np.nan, dtype=dtype)
    kept = {i: own for i, own in enumerate(places) if own is not None}
    for i, own in kept.items():
        if len(own) != shape[0]:
            raise ValueError(f"{names[i]}: {len(own)} positions, expected {shape[0]}")
    if kept:
        asked = [names[i] for i in kept]
        found = reader.states([rows[i] for i in kept], [*kept.values()], asked)
        array[[*kept]] = _cast(found, dtype, asked)
    return array


def fingerprint(model: torch.nn.Module) -> str:
    """Return a digest of the tensors' names, shapes, types and some weights, to tell models apart.

    All weights of an 8B model would take as long to read as many conversations.
    """
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // _WITNESSES)][:_WITNESSES]
        found.update(sample.float().cpu().numpy().tobytes())
    return found.hexdigest()


class _States:
    """A `Head` that gives the hidden states themselves, at the places of one row after another."""

    def __init__(self, places: Sequence[Sequence[int]]) -> None:
        self._places = iter(places)

    def positions(self, ids: Sequence[int], name: str) -> Sequence[int]:
        return next(self._places)

    def outputs(self, states_BQH: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"states": states_BQH}

    def describe(self) -> dict[str, object]:
        return {"head": "none"}

    def to(self, device: str) -> None: ...


class _Chunk(TypedDict):
    """The line of a whole chunk in the log."""

    rows: int
    skipped: int
    digest: str


class _Store:
    """Rows of one shape in a `.npy` file, and the log of its whole chunks."""

    def __init__(
        self, file: Path, shape: tuple[int, int], dtype: np.dtype, made_by: dict[str, object]
    ) -> None:
        self.file = file
        self.seen = 0  # rows of the conversations that have passed by
        self._shape, self._dtype = shape, dtype
        self._made_by = made_by
        self._partial = file.with_name(f"{file.name}.partial")
        self._log_path = file.with_name(f"{file.name}.log")
        self._chunks: Iterator[_Chunk] = iter(())
        self._skipped = 0
        self._told = time.monotonic()

    def __enter__(self) -> _Store:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        chunks, end = self._read_log()
        self._log = open(self._log_path, "r+b" if end else "w+b")
        self._log.truncate(end)
        self._log.seek(end)
        if not end:
            self._write_log(self._made_by)
        self._rows = sum(chunk["rows"] for chunk in chunks)
        self._chunks = iter(chunks)
        self._whole = self.file.exists()
        self._data = None if self._whole else self._open_data()  # a whole one is not touched
        if self._rows:
            log.info("%s: %d rows are there already", self.file, self._rows)
        return self

    def __exit__(self, *error: object) -> None:
        self._log.close()
        if self._data is not None:
            self._data.close()

    def has(self, rows: int, digest: str) -> bool:
        """Return whether the next chunk is there. Raises `InputError` if its digest differs."""
        self.seen += rows
        chunk = next(self._chunks, None)
        if chunk is None and not self._whole:
            return False
        if chunk is None or (chunk["rows"], chunk["digest"]) != (rows, digest):
            raise self._refusal("from other conversations or token ids")
        self._skipped += chunk["skipped"]
        return True

    def append(self, array_NQH: np.ndarray, digest: str, *, skipped: int) -> None:
        """Write the rows, then their line in the log, so that rows in the log are whole."""
        assert self._data is not None, "a whole file takes no more rows"
        self._data.write(array_NQH.tobytes())
        self._data.flush()
        os.fsync(self._data.fileno())
        self._write_log({"rows": len(array_NQH), "skipped": skipped, "digest": digest})
        self._rows += len(array_NQH)
        self._skipped += skipped
        if time.monotonic() - self._told > _SILENCE:
            self._told = time.monotonic()
            log.info("%s: %d rows", self.file, self._rows)

    def finish(self) -> np.ndarray:
        if next(self._chunks, None) is not None:
            raise self._refusal("from more conversations")
        if not self._rows:
            raise InputError(self.file, "there are no conversations to extract features of")
        if self._data is not None:
            self._data.seek(0)
            self._data.write(self._header(self._rows))
            self._data.flush()
            os.fsync(self._data.fileno())
            os.replace(self._partial, self.file)
        if self._skipped:
            log.warning(
                "%s: %d of %d conversations have more than %s tokens and are left out",
                self.file, self._skipped, self._rows, self._made_by["longest"],
            )  # fmt: skip
        return np.load(self.file, mmap_mode="r")

    def _read_log(self) -> tuple[list[_Chunk], int]:
        """Return the log's chunks, and where its last whole line ends."""
        lines = self._log_path.read_bytes().splitlines(True) if self._log_path.exists() else []
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # torn by a kill
        if not lines:
            if self.file.exists():
                raise InputError(self.file, f"is there without {self._log_path.name}", "delete it")
            return [], 0
        found = [json.loads(line) for line in lines]
        different = [key for key, value in self._made_by.items() if found[0].get(key) != value]
        if different:
            raise self._refusal(f"with another {' and '.join(different)}")
        return found[1:], sum(map(len, lines))

    def _open_data(self) -> BinaryIO:
        """Return the partial file, at the end of its whole chunks; what follows is cut off."""
        # `__exit__` closes the file
        data = open(self._partial, "r+b" if self._rows else "w+b")  # noqa: SIM115
        start = self._header(0)
        end = len(start) + self._rows * int(np.prod(self._shape)) * self._dtype.itemsize
        if not self._rows:
            data.write(start)
        elif os.fstat(data.fileno()).st_size < end:
            data.close()
            raise InputError(self._partial, "is shorter than its log says", "delete both")
        data.truncate(end)
        data.seek(end)
        return data

    def _header(self, rows: int) -> bytes:
        """Return the file's header, equally long for any number of rows, as numpy makes it."""
        made = BytesIO()
        about = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(made, {**about, "shape": (rows, *self._shape)})
        return made.getvalue()

    def _write_log(self, row: Mapping[str, object]) -> None:
        self._log.write(json.dumps(row).encode() + b"\n")
        self._log.flush()
        os.fsync(self._log.fileno())

    def _refusal(self, how: str) -> InputError:
        return InputError(
            self.file,
            f"was made {how}",
            f"delete it and {self._log_path.name}, or use another folder",
        )


def _chunks(conversations: Iterable[Scorable], size: int) -> Iterator[list[Scorable]]:
    rest = iter(conversations)
    for first in rest:
        yield list(chain([first], islice(rest, size - 1)))


def _digest(rows: Sequence[Sequence[int]], places: Sequence[Sequence[int] | None]) -> str:
    """Return a digest of all that the states of a chunk depend on, but for the model."""
    found = hashlib.blake2b(digest_size=16)
    for row, own in zip(rows, places, strict=True):
        found.update(np.asarray([len(row), *row], dtype=np.int64).tobytes())
        if own is not None:
            found.update(np.asarray(own, dtype=np.int64).tobytes())
    return found.hexdigest()


def _cast(states_NQH: np.ndarray, dtype: np.dtype, names: Sequence[str]) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast_NQH = states_NQH.astype(dtype)
    finite_N = np.isfinite(cast_NQH).all(axis=(1, 2))
    if not finite_N.all():
        where = names[int(np.argmin(finite_N))]
        fix = "its weights may be damaged"
        if dtype == np.float16 and np.isfinite(states_NQH).all():
            fix = "float16 cannot hold it; keep features as float32"
        raise RewardError(f"{where} has a hidden state that is no finite number: {fix}")
    return cast_NQH
