"""Pairs out of several answers to one prompt of which each has a value. Higher is better."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Any

from rewards.pair_sources.checked import checked_pair
from rewards.pair_sources.record import Options, Outcome, Record, Refusal
from rollout.types import Message

__all__ = ["Answer", "ranked_pairs"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: its text, how good it is (None: nobody said), and its ratings."""

    text: str
    value: float | None
    labels: Mapping[str, float] = field(default_factory=dict)


def ranked_pairs(
    record: Record,
    prompt: Sequence[Message],
    answers: Sequence[Answer],
    options: Options,
    *,
    stem: str = "",
    fields: Mapping[str, Any] | None = None,
) -> list[Outcome]:
    """The pairs that `options.pairs` names; the margin is the difference of the two values.

    Every answer without a value and every pair of equal values is one refusal.
    """
    valued = [answer for answer in answers if answer.value is not None]
    outcomes: list[Outcome] = [Refusal("no rating")] * (len(answers) - len(valued))
    if len(valued) < 2:
        return [*outcomes, Refusal("fewer than two rated answers")]
    for first, second in _chosen_pairs(record.id + stem, valued, options):
        a, b = valued[first], valued[second]
        assert a.value is not None and b.value is not None
        if a.value == b.value:
            outcomes.append(Refusal("tie"))
            continue
        better, worse = (a, b) if a.value > b.value else (b, a)
        labels = {"chosen": better.labels, "rejected": worse.labels}
        outcomes.append(
            checked_pair(
                record,
                prompt,
                better.text,
                worse.text,
                suffix=f"{stem}/{first}-{second}",
                margin=abs(a.value - b.value),
                labels=labels if a.labels or b.labels else None,
                fields=fields,
            )
        )
    return outcomes


def _chosen_pairs(
    id: str, answers: Sequence[Answer], options: Options
) -> Iterator[tuple[int, int]]:
    """Places of the two answers of each pair."""
    if options.pairs == "all":
        yield from combinations(range(len(answers)), 2)
        return
    values = [answer.value or 0.0 for answer in answers]
    order = sorted(range(len(answers)), key=lambda at: -values[at])
    if options.pairs == "adjacent":
        yield from pairwise(order)
    elif options.pairs == "best_vs_worst":
        yield order[0], order[-1]
    else:
        # of UltraFeedback binarized (Tunstall et al. 2023, arXiv 2310.16944)
        yield order[0], order[1 + _drawn(id, options.seed, len(order) - 1)]


def _drawn(id: str, seed: int, count: int) -> int:
    """One of `count`, from the seed and the row's id alone, so whatever the order of rows."""
    digest = hashlib.blake2b(f"{seed}\x1f{id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count
