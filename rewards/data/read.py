"""Read preference pairs and rated responses from files and `datasets` names.

`rewards.data.formats` says what a row means; this module reads, samples and counts rows.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any, Generic, Literal, TypeVar

from rewards.data.formats import Format, columns_of, find_format, recognise
from rewards.data.pair import Pair
from rewards.data.rated import Rated
from rewards.data.record import Options, Record, Refusal
from rewards.data.report import (
    DataReport,
    SourceReport,
    label_ranges,
    pair_content,
    rated_content,
    reversed_pairs,
    with_unique_ids,
)
from rewards.data.source import PairSource, Sources, parse_sources
from rewards.data.split import Split, split_last, split_pairs
from rollout.data.bad_rows import OnBadRow, SkippedRow
from rollout.data.forms import column
from rollout.data.jsonl import is_object, json_kind
from rollout.data.pools import pool_rows
from rollout.data.rows import Row, read_rows, row_id, without_error
from rollout.data.sources import find_source
from rollout.errors import InputError
from rollout.seeds import derive_seed
from rollout.text.printable import one_line

__all__ = [
    "PairSet",
    "PairSource",
    "RatedSet",
    "Split",
    "read_pairs",
    "read_rated",
    "split_last",
    "split_pairs",
]

logger = logging.getLogger("raft")

Use = Literal["pairs", "rated"]
_Made = TypeVar("_Made", Pair, Rated)
# reasons that good data has too: `strict` does not raise for them
_EXPECTED = ("tie", "no rating", "fewer than two rated answers", "nothing to compare")


@dataclass(frozen=True, slots=True)
class PairSet:
    """All pairs of all sources, in their order, and what became of every row."""

    pairs: list[Pair]
    report: DataReport


@dataclass(frozen=True, slots=True)
class RatedSet:
    """All rated responses of all sources, in their order, and what became of every row."""

    rated: list[Rated]
    report: DataReport


def read_pairs(
    sources: Sources, *, seed: int = 0, strict: bool = False, on_bad_row: OnBadRow = "stop"
) -> PairSet:
    """Read every source and convert its rows to pairs.

    A pair that occurs twice (same prompt, same sides), in one source or in two, is used once unless
    the source says otherwise. An id that occurs twice gets ~2, ~3, …. The draws of `fraction`
    depend on the seed and on a pair's content, not on its place.

    Args:
        sources: paths, mappings of `PairSource`'s keys, or `PairSource`s.
        strict: raise for the first row that cannot make a pair, but not for ties and missing
            ratings, which good data has too.
        on_bad_row: "skip" counts rows that cannot be read among those that make no pair.

    Raises:
        InputError: for what cannot be read, with file and line; for a source of which nothing is
            left, with the counts.
    """
    reader = _Reader[Pair]("pairs", seed, strict, pair_content, on_bad_row)
    pairs: list[Pair] = []
    for source in parse_sources(sources):
        pairs += reader.read(source)
    pairs, renamed = with_unique_ids(pairs)
    report = DataReport(
        reader.reports,
        by_origin=dict(Counter(pair.source for pair in pairs).most_common()),
        labels=label_ranges(labels for pair in pairs for labels in pair.labels.values()),
        reversed_pairs=reversed_pairs(pairs),
        renamed=renamed,
    )
    return PairSet(pairs, report)


def read_rated(
    sources: Sources,
    *,
    seed: int = 0,
    strict: bool = False,
    attributes: Sequence[str] = (),
    on_bad_row: OnBadRow = "stop",
) -> RatedSet:
    """Read every source's single responses with their ratings, for multi-objective regression.

    Args:
        sources, strict, seed, on_bad_row: as in `read_pairs`; settings for pairs alone are ignored.
        attributes: names to report on even where no response has a label of them.

    Raises:
        InputError: as `read_pairs`.
    """
    reader = _Reader[Rated]("rated", seed, strict, rated_content, on_bad_row)
    found: list[Rated] = []
    for source in parse_sources(sources):
        found += reader.read(source)
    report = DataReport(
        reader.reports,
        by_origin=dict(Counter(one.source for one in found).most_common()),
        labels=label_ranges((one.labels for one in found), attributes),
    )
    return RatedSet(found, report)


class _Reader(Generic[_Made]):
    """A reader of one source after another, which finds duplicates across all of them."""

    def __init__(
        self,
        use: Use,
        seed: int,
        strict: bool,
        content: Callable[[_Made], str],
        on_bad_row: OnBadRow,
    ) -> None:
        self._skips = on_bad_row == "skip"
        self.reports: list[SourceReport] = []
        self._use: Use = use
        self._seed = seed
        self._strict = strict
        self._content = content
        self._seen: set[bytes] = set()

    def read(self, source: PairSource) -> list[_Made]:
        """Return the pairs or rated responses of a source. Raises InputError as `read_pairs`."""
        report = SourceReport(
            source.path, source.format, "pairs" if self._use == "pairs" else "rated"
        )
        self.reports.append(report)
        kept: list[_Made] = []
        for outcome, where in self._drawn(source, report):
            if isinstance(outcome, Refusal):
                self._refuse(outcome, where, report)
                continue
            digest = hashlib.blake2b(self._content(outcome).encode(), digest_size=16).digest()
            if digest in self._seen and source.duplicates == "drop":
                self._refuse(Refusal("duplicate"), where, report)
            elif self._share(digest) >= source.fraction:
                report.left_out["fraction"] += 1
            else:
                self._seen.add(digest)
                kept.append(outcome)
                report.made += 1
                if report.made == source.limit:
                    report.limited = True
                    break
        if not kept:
            raise InputError(
                report.name, report.nothing_left(), "fix the rows or name another source"
            )
        return kept

    def _drawn(
        self, source: PairSource, report: SourceReport
    ) -> Iterator[tuple[_Made | Refusal, str]]:
        """Yield (outcome, place) of the first of each `every` outcomes, and of ties, uncounted."""
        number = 0
        for outcome, where in self._outcomes(source, report):
            if outcome == Refusal("tie"):
                yield outcome, where
                continue
            if number % source.every == 0:
                yield outcome, where
            else:
                report.left_out["every"] += 1
            number += 1

    def _outcomes(
        self, source: PairSource, report: SourceReport
    ) -> Iterator[tuple[_Made | Refusal, str]]:
        records = _records(source, report, self._use, self._skips)
        first = next(records, None)
        if first is None:
            return
        format = find_format(report.format)
        options = source.options(derive_seed(self._seed, "pairs"))
        for together in _together(first, records, format, self._use):
            where = together[0].where
            try:
                outcomes: Sequence[Any] = _convert(format, together, options, self._use)
            except InputError as error:
                if not self._skips:
                    raise
                outcomes = [Refusal(one_line(error.problem))]
            for outcome in outcomes or [Refusal("nothing to compare")]:
                yield outcome, where

    def _refuse(self, refusal: Refusal, where: str, report: SourceReport) -> None:
        if self._strict and refusal.reason not in _EXPECTED:
            raise InputError(
                where,
                refusal.reason,
                "fix or delete the row, or read without strict",
            )
        report.drop(refusal.reason, where)

    def _share(self, digest: bytes) -> float:
        """Return a number in [0, 1) that depends on the seed and the content alone."""
        return derive_seed(self._seed, "fraction", digest.hex()) / 2**62


def _convert(
    format: Format, together: Sequence[Record], options: Options, use: Use
) -> Sequence[Any]:
    if use == "rated":
        assert format.rated is not None
        return format.rated(together[0])
    if format.pairs_of_many is not None:
        return format.pairs_of_many(together, options)
    assert format.pairs is not None
    return format.pairs(together[0], options)


def _together(
    first: Record, rest: Iterable[Record], format: Format, use: Use
) -> Iterator[list[Record]]:
    """Yield the records to convert at once: neighbours of one key where the format has keys."""

    def records() -> Iterator[Record]:
        yield first
        yield from rest

    if use == "rated" or format.key is None:
        yield from ([record] for record in records())
    else:
        yield from (list(group) for _, group in groupby(records(), key=format.key))


def _records(source: PairSource, report: SourceReport, use: Use, skips: bool) -> Iterator[Record]:
    """Yield a record per row that `where` lets pass; flat rows of one prompt are one record."""
    if source.format != "auto":
        _check_use(source.format, use, source.path)
    found = find_source(source.path, split=source.split, columns=source.columns)
    rows = _passing(read_rows(found, keep_errors=True), source, report, use, skips)
    first = next(rows, None)
    if first is None:
        return
    rows = chain([first], rows)
    for row in pool_rows(rows) if find_format(report.format).flat else rows:
        try:
            columns = columns_of(report.format, _columns(row), row.where)
            record = _record(row, columns, source, found.stem)
        except InputError as error:
            _drop(error, row.where, report, skips)
        else:
            yield record


def _passing(
    rows: Iterable[Row], source: PairSource, report: SourceReport, use: Use, skips: bool
) -> Iterator[Row]:
    """Yield the rows that `where` lets pass, and set the report's format at the first of them."""
    for row in rows:
        report.rows += 1
        try:
            columns = _columns(row)
            if not _passes(columns, source.where or {}, row.where):
                report.left_out["where"] += 1
                continue
            if report.format == "auto":
                report.format, why = recognise(columns, row.where, use)
                logger.info("%s: read as %s (%s)", source.path, report.format, why)
        except InputError as error:
            _drop(error, row.where, report, skips)
        else:
            yield row


def _drop(error: InputError, where: str, report: SourceReport, skips: bool) -> None:
    """Count a row that is skipped. Raises `error` unless `skips`, or its reader skipped it."""
    if not (skips or isinstance(error, SkippedRow)):
        raise error
    report.drop(one_line(error.problem), where)


def _check_use(name: str, use: Use, path: str) -> None:
    format = find_format(name)
    if use == "rated" and format.rated is None:
        raise InputError(path, f"rows of format {name} have no ratings of single responses")
    if use == "pairs" and format.pairs is None and format.pairs_of_many is None:
        raise InputError(path, f"rows of format {name} are single responses and make no pairs")


def _columns(row: Row) -> dict[str, object]:
    value = without_error(row).value
    if not is_object(value):
        raise InputError(
            row.where,
            f"holds {json_kind(value)} where an object is expected",
            'write {"prompt", "chosen", "rejected"}',
        )
    return value


def _passes(columns: Mapping[str, object], where: Mapping[str, object], place: str) -> bool:
    for name, wanted in where.items():
        value = column(columns, name, place)
        if value not in (wanted if isinstance(wanted, list | tuple) else [wanted]):
            return False
    return True


def _record(row: Row, columns: dict[str, object], source: PairSource, stem: str) -> Record:
    origin = columns.get("source")
    name = source.source or (origin if isinstance(origin, str) and origin else stem)
    return Record(row_id(columns, row, stem), row.where, name, columns)
