"""Which prompts to train on are prompts to evaluate on: the same ones, and nearly the same ones.

Exact: equal but for case, punctuation and spacing. Near: the two share at least 80 % of the runs
of 13 words of the shorter one. Runs of 13 words are GPT-3's measure (Brown et al. 2020, arXiv
2005.14165, appendix C), which counts a single shared run as contamination and, like this one,
leaves out runs that stand in more than ten documents; a share, at 70 % of 8-grams, is PaLM's
(Chowdhery et al. 2022, arXiv 2204.02311). A prompt of fewer than 13 words has no such run: it can
only match exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from rewards.data.dialogue import prompt_text, prompt_words
from rewards.data.pair import Pair
from rollout.types import Prompt

__all__ = ["Match", "Overlap", "overlap", "without_overlap"]

# a text, messages, or what has a prompt of either form
Prompted = str | Prompt | Pair | Sequence[Mapping[str, Any]]
_Item = TypeVar("_Item")
_Gram = tuple[str, ...]

_COMMON = 10  # a run in more distinct evaluation prompts is a form of words, and says nothing
_EXAMPLES = 3
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Match:
    """One training prompt that an evaluation has too. `share` is 1 for an exact match."""

    train: int
    evaluation: int
    kind: Literal["exact", "near"]
    share: float
    text: str


@dataclass(frozen=True, slots=True)
class Overlap:
    """Each training prompt's best match, in the order of the training prompts."""

    train_count: int
    evaluation_count: int
    matches: tuple[Match, ...]

    @property
    def exact(self) -> tuple[Match, ...]:
        return tuple(match for match in self.matches if match.kind == "exact")

    @property
    def near(self) -> tuple[Match, ...]:
        return tuple(match for match in self.matches if match.kind == "near")

    def lines(self) -> list[str]:
        """For a person: the counts, and the first examples of each kind."""
        lines = [
            f"{len(self.exact)} of {self.train_count} training prompts stand among the "
            f"{self.evaluation_count} evaluation prompts, {len(self.near)} more nearly so"
        ]
        for match in (*self.exact[:_EXAMPLES], *self.near[:_EXAMPLES]):
            share = f" {match.share:.0%}" if match.kind == "near" else ""
            lines.append(
                f"  {match.kind}{share}: training prompt {match.train + 1}, "
                f"evaluation prompt {match.evaluation + 1}: {_shortened(match.text)}"
            )
        return lines


def overlap(
    train: Iterable[Prompted], evaluation: Iterable[Prompted], *, n: int = 13, share: float = 0.8
) -> Overlap:
    """Find the training prompts that an evaluation has too.

    System messages are left out; the turns of a longer prompt count as one text. The evaluation's
    runs are held in memory, the training prompts are not. Matches name places from 0; of several
    equal matches the first evaluation prompt is named.

    Raises ValueError for n below 1 or a share outside (0, 1].
    """
    if n < 1 or not 0 < share <= 1:
        raise ValueError(f"n must be 1 or more and 0 < share <= 1, and are {n} and {share}")
    index = _Index(evaluation, n)
    matches: list[Match] = []
    count = 0
    for count, item in enumerate(train, start=1):
        text = _text(item)
        if found := index.best(text, share):
            at, kind, shared = found
            matches.append(Match(count - 1, at, kind, shared, text))
    return Overlap(count, index.count, tuple(matches))


def without_overlap(train: Sequence[_Item], found: Overlap) -> list[_Item]:
    """The training items that `overlap`, given these very items, found in no evaluation.

    Raises ValueError where the overlap is of another number of items.
    """
    if len(train) != found.train_count:
        raise ValueError(f"{len(train)} items, and an overlap of {found.train_count}")
    matched = {match.train for match in found.matches}
    return [item for at, item in enumerate(train) if at not in matched]


class _Index:
    """The evaluation's prompts, by their words and by their runs of n words."""

    def __init__(self, evaluation: Iterable[Prompted], n: int) -> None:
        self.count = 0
        self._n = n
        self._exact: dict[str, int] = {}
        holders: dict[_Gram, list[int]] = {}
        for self.count, item in enumerate(evaluation, start=1):
            words = prompt_words(_text(item))
            key = " ".join(words)
            if key in self._exact:
                continue  # the same prompt again
            self._exact[key] = self.count - 1
            for gram in _grams(words, n):
                holders.setdefault(gram, []).append(self.count - 1)
        self._common = {gram for gram, places in holders.items() if len(places) > _COMMON}
        self._holders = {g: places for g, places in holders.items() if g not in self._common}
        self._sizes = Counter(place for places in self._holders.values() for place in places)

    def best(self, text: str, share: float) -> tuple[int, Literal["exact", "near"], float] | None:
        words = prompt_words(text)
        at = self._exact.get(" ".join(words))
        if at is not None:
            return at, "exact", 1.0
        grams = _grams(words, self._n) - self._common
        shared = Counter(place for gram in grams for place in self._holders.get(gram, ()))
        # of the shorter one: a question within a longer prompt is asked there too
        shares = {at: n / min(len(grams), self._sizes[at]) for at, n in shared.items()}
        if not shares:
            return None
        at = max(shares, key=lambda at: (shares[at], -at))
        return (at, "near", shares[at]) if shares[at] >= share else None


def _grams(words: Sequence[str], n: int) -> set[_Gram]:
    return {tuple(words[at : at + n]) for at in range(len(words) - n + 1)}


def _text(item: Prompted) -> str:
    if isinstance(item, Prompt):
        content: Any = item.content
    else:
        content = item.prompt if isinstance(item, Pair) else item
    return prompt_text(content)


def _shortened(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _SHOWN else flat[: _SHOWN - 1] + "…"
