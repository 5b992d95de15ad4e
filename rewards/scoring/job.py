"""Work through a file of rows: what `raft score` and `raft rank` share. Knows nothing of rewards.

The input is read twice. First every row is checked, so that a broken one shows before hours of
work; then chunk after chunk is worked on and written. Chunks depend on the input alone: a command
that was interrupted and one that was not put the same rows together, and write the same bytes.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from rewards.types import RewardError
from rollout.data.bad_rows import SKIPPED
from rollout.data.rows_to_score import Checked, RowReader, ScoreRow
from rollout.errors import InputError
from rollout.progress import Progress
from rollout.storage.output import Output, OutputFile, Stdout
from rollout.storage.settings import made_of

__all__ = ["Work", "in_order", "refuse_columns", "run_job"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

log = logging.getLogger("raft")

# enough for full batches and for prefixes to be shared, few enough that a kill loses little work
CONVERSATIONS_AT_A_TIME = 512
_MOST_TOGETHER = 4096
# what may change between an interrupted command and the next: finished rows are compared with the
# input one by one, and no finished row depends on how a failure is treated
_FREE_SETTINGS = ("input.digest", "input.rows", "scorer.non_finite")


class Work(Protocol):
    """What a command does with the rows of a file."""

    title: str

    def columns(self, row: ScoreRow) -> Sequence[str]:
        """Return the columns that are added. Raises InputError where the row has one already."""
        ...

    def check(self, row: ScoreRow) -> None:
        """Check a row. Raises InputError where it cannot be worked on."""
        ...

    def prepare(self) -> int:
        """Load what the work needs; return how many calls of `run` may be under way at a time."""
        ...

    def run(self, rows: Sequence[ScoreRow]) -> list[dict[str, object]]:
        """Return the finished rows, in order."""
        ...

    def skipped(self, row: ScoreRow) -> dict[str, object]:
        """Return the finished row of a row that is skipped."""
        ...

    def count(self, row: ScoreRow, finished: Mapping[str, object]) -> None:
        """Count a finished row in the summary, also one that an interrupted command finished."""
        ...

    def summary(self) -> dict[str, object]:
        """Return the figures of all rows counted, as JSON."""
        ...

    def line(self) -> str:
        """Return the summary in words, for the log."""
        ...


def run_job(
    reader: RowReader,
    work: Work,
    path: Path | None,
    settings: Mapping[str, object],
    *,
    batch_rows: int | None = None,
    free: Sequence[str] = _FREE_SETTINGS,
    restart: bool = False,
) -> dict[str, object]:
    """Work on every row and write it to `path`, or to standard output; return the summary.

    `settings` are what the finished rows depend on; `scorer` among them names what scores, and
    those in `free` may change between an interrupted command and the one that goes on. A file that
    is complete under these settings is left as it is.

    Raises:
        InputError: a row cannot be worked on and is not to be skipped, the output is of other
            settings or cannot be written.
        RewardError: from the work, with the place of the row it was about.
    """
    checked = reader.check(work.columns, work.check)
    reader.bad.warn(reader.source.name, log)
    if path is None:
        return _finished(reader, checked, work, Stdout(), "-", batch_rows)
    known = {
        **settings,
        "files": made_of(settings["scorer"]),
        "input": {"stem": reader.stem, "rows": checked.rows, "digest": checked.digest},
        "batch_rows": batch_rows,
    }
    with OutputFile(path, known, free=free, restart=restart) as job:
        if job.complete:
            log.info("%s: is complete already, under the same settings", path)
            return {"rows": checked.rows, **(job.record or {}), "out": str(path)}
        return _finished(reader, checked, work, job, str(path), batch_rows)


def in_order(
    run: Callable[[_Item], _Result], items: Iterable[_Item], at_once: int
) -> Iterator[tuple[_Item, Callable[[], _Result]]]:
    """Yield each item, in order, with a function that returns or raises its result.

    Up to `at_once` items are worked on at a time, in threads, and as many wait for their turn; with
    1 the function does the work, without a thread.
    """
    if at_once == 1:
        yield from ((item, partial(run, item)) for item in items)
        return
    threads = ThreadPoolExecutor(at_once, thread_name_prefix="scoring")
    ahead: deque[tuple[_Item, Callable[[], _Result]]] = deque()
    try:
        for item in items:
            ahead.append((item, threads.submit(run, item).result))
            if len(ahead) >= 2 * at_once:
                yield ahead.popleft()
        while ahead:
            yield ahead.popleft()
    finally:  # calls under way are not waited for
        threads.shutdown(wait=False, cancel_futures=True)


def refuse_columns(row: ScoreRow, columns: Sequence[str], replace: bool, other: str) -> None:
    """Refuse a row that has one of the `columns` to be added, unless these `replace` it.

    Raises InputError, whose fix begins with `other`, another way than to replace.
    """
    taken = next((column for column in columns if column in row.written), None)
    if taken is not None and not replace:
        raise InputError(
            row.where,
            f"has a column {taken!r} already",
            f"use {other}--replace to overwrite it",
        )


def _finished(
    reader: RowReader,
    checked: Checked,
    work: Work,
    out: Output,
    name: str,
    batch_rows: int | None,
) -> dict[str, object]:
    done, seconds = _work_through(reader, checked, work, out, batch_rows)
    summary = {
        "out": name,
        "rows": checked.rows,
        "conversations": checked.conversations,
        **work.summary(),
        **reader.bad.summary(),
        "new_conversations": done,
        "seconds": round(seconds, 3),
        "conversations_per_second": round(done / seconds, 2) if seconds else None,
    }
    out.finish(summary)
    speed = f", {done / seconds:.1f}/s" if seconds else ""
    log.info(
        "%s: %d rows, %d conversations | %s | %d of them now, in %.1f s%s",
        name, checked.rows, checked.conversations, work.line(), done, seconds, speed,
    )  # fmt: skip
    return summary


def _work_through(
    reader: RowReader, checked: Checked, work: Work, out: Output, batch_rows: int | None
) -> tuple[int, float]:
    """Work on all chunks and write them; return (conversations worked on, seconds it took).

    Neither counts what an interrupted command had finished.
    """
    done, kept, at_once = 0, 0, work.prepare()
    began = time.monotonic()
    chunks = ((chunk, out.recall(len(chunk))) for chunk in _chunks(reader.rows(), batch_rows))
    with Progress(work.title, checked.rows) as bar:
        run = in_order(lambda one: one[1] or _run(work, one[0]), chunks, at_once)
        for (chunk, recalled), result in run:
            finished = result()
            if recalled is not None:
                _check_same(work, chunk, finished)
                kept, began = kept + len(chunk), time.monotonic()
            else:
                if kept and not done:
                    log.info("going on behind %d finished rows", kept)
                out.append(finished)
                done += sum(row.conversations for row in chunk)
            for row, one in zip(chunk, finished, strict=True):
                if row.bad is None:
                    work.count(row, one)
            bar.advance(len(chunk))
    return done, time.monotonic() - began if done else 0.0


def _chunks(rows: Iterator[ScoreRow], batch_rows: int | None) -> Iterator[list[ScoreRow]]:
    chunk: list[ScoreRow] = []
    held = 0
    for row in rows:
        # rows without responses take memory too
        full = len(chunk) >= (batch_rows or CONVERSATIONS_AT_A_TIME)
        full = full or (batch_rows is None and held >= CONVERSATIONS_AT_A_TIME)
        # rows of one prompt stay together, as far as memory goes
        apart = full and (len(chunk) >= _MOST_TOGETHER or not chunk[-1].answers_as(row))
        if apart:
            yield chunk
            chunk, held = [], 0
        chunk.append(row)
        held += row.conversations
    if chunk:
        yield chunk


def _run(work: Work, chunk: list[ScoreRow]) -> list[dict[str, object]]:
    good = [row for row in chunk if row.bad is None]
    try:
        finished = iter(work.run(good) if good else [])
    except InputError as error:
        raise InputError(_place(good, str(error)), error) from error
    except RewardError as error:
        raise RewardError(f"{_place(good, str(error))}: {error}") from error
    return [next(finished) if row.bad is None else work.skipped(row) for row in chunk]


def _place(chunk: list[ScoreRow], message: str) -> str:
    """Return the place of the row whose prompt an error names, or else that of the chunk."""
    for row in chunk:
        if any(repr(group.prompt.id) in message for group in row.groups):
            return row.where
    first, last = chunk[0].where, chunk[-1].where
    return first if first == last else f"{first} to {last}"


def _check_same(
    work: Work, chunk: list[ScoreRow], finished: Sequence[Mapping[str, object]]
) -> None:
    for row, one in zip(chunk, finished, strict=True):
        added = set(work.columns(row))
        whole = added <= one.keys() if row.bad is None else SKIPPED in one
        added |= {SKIPPED} if row.bad is not None else set()
        if not whole or _others(row.written, added) != _others(one, added):
            raise InputError(
                row.where,
                "is another row than when the interrupted command worked on it",
                "restore the file, or use --restart to begin anew",
            )


def _others(columns: Mapping[str, object], added: set[str]) -> str:
    return json.dumps({key: value for key, value in columns.items() if key not in added})
