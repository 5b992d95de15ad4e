"""What is said of all pairs together: which are the same, which contradict, how labels range."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from rewards.pair_sources.rated import Rated
from rewards.pairs import Pair
from rollout.types import Message

__all__ = ["label_ranges", "pair_content", "rated_content", "reversed_pairs", "with_unique_ids"]


def with_unique_ids(pairs: list[Pair]) -> tuple[list[Pair], int]:
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
    return "\x1e".join([_conversation(pair.prompt), pair.chosen, pair.rejected])


def rated_content(rated: Rated) -> str:
    labels = sorted(rated.labels.items())
    return f"{_conversation(rated.conversation)}\x1e{labels}"


def _conversation(messages: Sequence[Message]) -> str:
    return "\x1d".join(f"{turn['role']}\x1f{turn['content']}" for turn in messages)


def reversed_pairs(pairs: Sequence[Pair]) -> int:
    seen: set[tuple[int, int, int]] = set()
    count = 0
    for pair in pairs:
        prompt = hash(_conversation(pair.prompt))
        chosen, rejected = hash(pair.chosen), hash(pair.rejected)
        count += (prompt, rejected, chosen) in seen
        seen.add((prompt, chosen, rejected))
    return count


def label_ranges(
    several: Iterable[Mapping[str, float]], attributes: Sequence[str] = ()
) -> dict[str, tuple[int, float, float]]:
    """Attribute -> (labels, least, greatest); (0, 0, 0) for one without any."""
    ranges: dict[str, tuple[int, float, float]] = dict.fromkeys(attributes, (0, 0.0, 0.0))
    for labels in several:
        for name, label in labels.items():
            count, low, high = ranges.get(name, (0, 0.0, 0.0))
            if count:
                ranges[name] = count + 1, min(low, label), max(high, label)
            else:
                ranges[name] = 1, label, label
    return ranges
