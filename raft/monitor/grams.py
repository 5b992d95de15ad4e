"""The words and symbols of texts, and how many of them hold which n-gram.

Words are runs of letters and digits, lower-cased. Symbols are all other visible characters, and the
letters of scripts without cases (Chinese, say), which put no spaces between words. A character four
times running is a symbol too: `haaaaaa` repeats itself within one word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

__all__ = ["Gram", "frequent", "spelled", "tally", "units", "words"]

_LONGEST = 3  # n of the longest n-grams

Gram = tuple[str, ...]  # "word" or "symbol", then one to three of them
Tally = dict[Gram, tuple[int, int]]  # texts that hold it, times it stands there

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_REPEATED = re.compile(r"(\S)\1{3,}")


class _SymbolsAlone(dict[int, str]):
    """A table for `str.translate`: what is no symbol becomes a blank."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        in_words = character.isdigit() or character.lower() != character.upper()
        self[code] = " " if in_words or character.isspace() else character
        return self[code]


_SYMBOLS = _SymbolsAlone()


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def frequent(texts: Sequence[str], least: float) -> Tally:
    """The n-grams that stand in a share of at least `least` of the texts.

    Level by level (Agrawal & Srikant 1994): an n-gram is frequent only where both (n−1)-grams in it
    are, so memory follows the frequent ones.
    """
    found: Tally = {}
    parts: set[Gram] = set()
    for n in range(1, _LONGEST + 1):

        def wanted(gram: Gram, parts: set[Gram] = parts) -> bool:
            return gram[:-1] in parts and (gram[0], *gram[2:]) in parts

        counted = _count(texts, n, wanted if n > 1 else lambda _: True)
        level = {gram: held for gram, held in counted.items() if held[0] >= least * len(texts)}
        parts = set(level)
        found |= level
    return found


def tally(texts: Sequence[str], grams: Collection[Gram]) -> Tally:
    """How often these n-grams stand in the texts; those that nowhere do are left out."""
    wanted = set(grams)
    found: Tally = {}
    for n in range(1, _LONGEST + 1):
        found |= _count(texts, n, wanted.__contains__)
    return found


def spelled(gram: Gram) -> str:
    """As it stands in a text."""
    kind, *items = gram
    return (" " if kind == "word" else "").join(items)


def units(texts: Sequence[str]) -> int:
    """Words and symbols of all texts."""
    return sum(len(items) for text in texts for _, items in _sequences(text))


def _count(texts: Sequence[str], n: int, wanted: Callable[[Gram], bool]) -> Tally:
    held: Counter[Gram] = Counter()
    times: Counter[Gram] = Counter()
    for text in texts:
        own = Counter(gram for gram in _grams(text, n) if wanted(gram))
        times.update(own)
        held.update(own.keys())
    return {gram: (count, times[gram]) for gram, count in held.items()}


def _grams(text: str, n: int) -> Iterator[Gram]:
    for kind, items in _sequences(text):
        for start in range(len(items) - n + 1):
            yield (kind, *items[start : start + n])


def _sequences(text: str) -> Iterator[tuple[str, Sequence[str]]]:
    """What n-grams are cut from."""
    lowered = text.lower()
    yield "word", _WORD.findall(lowered)
    for run in text.translate(_SYMBOLS).split():
        yield "symbol", run
    for match in _REPEATED.finditer(lowered):
        yield "symbol", (match[1] * 4,)
