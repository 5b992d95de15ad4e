"""Count what became of every row of every source, and what holds of all pairs together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rewards.data.pair import Pair
from rewards.data.rated import Rated
from rollout.types import Message

__all__ = [
    "DataReport",
    "Dropped",
    "SourceReport",
    "label_ranges",
    "pair_content",
    "rated_content",
    "reversed_pairs",
    "with_unique_ids",
]

_PLACES = 3


@dataclass(slots=True)
class Dropped:
    """How often rows were skipped for one reason, and the first places where they were."""

    count: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, place: str) -> None:
        self.count += 1
        if len(self.places) < _PLACES and place not in self.places:
            self.places.append(place)


@dataclass(slots=True)
class SourceReport:
    """What became of the rows of one source.

    Args:
        rows: how many were read.
        made: how many pairs (or rated responses) were made of them and are used.
        dropped: reason -> count and places, of rows that cannot make a pair.
        left_out: setting (where, every, fraction) -> how many rows or pairs it excluded.
        limited: reading stopped at the limit, so that rows may be left.
    """

    name: str
    format: str
    unit: str = "pairs"
    rows: int = 0
    made: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    limited: bool = False

    def drop(self, reason: str, place: str) -> None:
        self.dropped.setdefault(reason, Dropped()).add(place)

    def nothing_left(self) -> str:
        """Return the error message for a source that yields no pair or rated response."""
        unit = "pair" if self.unit == "pairs" else "rated response"
        places = [place for dropped in self.dropped.values() for place in dropped.places]
        first = f"; the first at {places[0]}" if places else ""
        return f"no {unit} is left of it ({self.counts()}{first})"

    def counts(self) -> str:
        """Return the counts as one line, without the source's name."""
        parts = [f"{self.rows} rows", f"{self.made} {self.unit}"]
        by_count = sorted(self.dropped.items(), key=lambda item: -item[1].count)
        parts += [f"{dropped.count} dropped: {reason}" for reason, dropped in by_count]
        parts += [f"{count} left out by {name}" for name, count in self.left_out.items()]
        if self.limited:
            parts.append("stopped at the limit")
        return ", ".join(parts)


@dataclass(slots=True)
class DataReport:
    """What became of the rows of all sources.

    Args:
        by_origin: Pair.source -> number of pairs, for tables.
        labels: attribute -> (number of labels, the least, the greatest).
        reversed_pairs: how many pairs have the sides of an earlier one, swapped.
        renamed: how many pairs got a number behind their id because an earlier one has that id.
    """

    sources: Sequence[SourceReport]
    by_origin: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, tuple[int, float, float]] = field(default_factory=dict)
    reversed_pairs: int = 0
    renamed: int = 0

    def lines(self) -> list[str]:
        """Return the report as lines for a person, none with a line break in it."""
        return list(self._lines())

    def _lines(self) -> Iterator[str]:
        for source in self.sources:
            yield f"{source.name} ({source.format}): {source.counts()}"
            for reason, dropped in source.dropped.items():
                more = ", …" if dropped.count > len(dropped.places) else ""
                # the line before names the file: its lines are enough here
                places = [place.removeprefix(source.name).lstrip(": ") for place in dropped.places]
                yield f"  {reason}: at {', '.join(places)}{more}"
        if len(self.by_origin) > 1:
            yield "of " + ", ".join(f"{name} {count}" for name, count in self.by_origin.items())
        if self.reversed_pairs:
            yield f"{self.reversed_pairs} pairs stand the other way round as well: people disagree"
        if self.renamed:
            yield f"{self.renamed} ids stood twice and got ~2, ~3, …"
        yield from self._label_lines()

    def _label_lines(self) -> Iterator[str]:
        for name, (count, low, high) in self.labels.items():
            if not count:
                yield f"  {name}: no label at all"
            elif low == high:
                yield f"  {name}: {count} labels, all {low:g}: nothing to learn from"
            else:
                off = "" if low >= 0 and high <= 1 else ", outside 0 to 1: fix the scale"
                yield f"  {name}: {count} labels from {low:g} to {high:g}{off}"


def with_unique_ids(pairs: list[Pair]) -> tuple[list[Pair], int]:
    """Return the pairs, repeated ids getting ~2, ~3, … behind them, and how many were renamed."""
    taken = {pair.id for pair in pairs}
    seen: Counter[str] = Counter()
    unique = []
    for pair in pairs:
        seen[pair.id] += 1
        if seen[pair.id] > 1:
            number = seen[pair.id]
            while (id := f"{pair.id}~{number}") in taken:
                number += 1
            taken.add(id)
            pair = replace(pair, id=id)
        unique.append(pair)
    return unique, len(pairs) - len(seen)


def pair_content(pair: Pair) -> str:
    """Return a key that is equal for pairs of the same prompt, chosen and rejected response."""
    more = [repr(pair.messages)] if pair.messages else []
    return "\x1e".join([_conversation(pair.prompt), pair.chosen, pair.rejected, *more])


def rated_content(rated: Rated) -> str:
    """Return a key that is equal for rated responses of the same conversation and labels."""
    labels = sorted(rated.labels.items())
    return f"{_conversation(rated.conversation)}\x1e{labels}"


def _conversation(messages: Sequence[Message]) -> str:
    return "\x1d".join("\x1f".join(map(str, turn.values())) for turn in messages)


def reversed_pairs(pairs: Sequence[Pair]) -> int:
    """Return how many pairs contradict an earlier one: same responses, the other one preferred."""
    seen: set[tuple[int, int, int]] = set()
    count = 0
    for pair in pairs:
        prompt = hash(_conversation(pair.prompt))
        chosen, rejected = (
            hash(str(pair.conversation(side)[-1])) for side in ("chosen", "rejected")
        )
        count += (prompt, rejected, chosen) in seen
        seen.add((prompt, chosen, rejected))
    return count


def label_ranges(
    several: Iterable[Mapping[str, float]], attributes: Sequence[str] = ()
) -> dict[str, tuple[int, float, float]]:
    """Return attribute -> (number of labels, least, greatest); (0, 0, 0) for one without any.

    All `attributes` are in the result, and every other one that a label names.
    """
    ranges: dict[str, tuple[int, float, float]] = dict.fromkeys(attributes, (0, 0.0, 0.0))
    for labels in several:
        for name, label in labels.items():
            count, low, high = ranges.get(name, (0, 0.0, 0.0))
            if count:
                ranges[name] = count + 1, min(low, label), max(high, label)
            else:
                ranges[name] = 1, label, label
    return ranges
