"""n-grams whose frequency jumps between two policies, such as the '#' collapse of the RAFT example.

Words are runs of letters and digits, lower-cased. Symbols are all other visible characters, and the
letters of scripts without cases (Chinese, say), which put no spaces between words. A character four
times in a row is a symbol too: `haaaaaa` repeats itself within one word.

Frequencies are compared by log-odds with an informative Dirichlet prior (Monroe, Colaresi & Quinn
2008, "Fightin' Words", eq. 15-22): the prior is the frequency in both texts together, so that a
rare n-gram is not taken for a new one. They are compared per response (how many hold it) and per
word.

An evaluation's `ngrams.json` has the n-grams that are more frequent than at the start, and than in
the evaluation before.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rollout.storage.files import intact, read_json, write_json

__all__ = [
    "Change",
    "Gram",
    "Jump",
    "changes",
    "frequent",
    "jumps",
    "log_odds",
    "new_jumps",
    "read_jumps",
    "spelled",
    "tally",
    "units",
    "words",
    "write_ngrams",
]

_LONGEST = 3  # n of the longest n-grams

Gram = tuple[str, ...]  # "word" or "symbol", then one to three of them
Tally = dict[Gram, tuple[int, int]]  # how many texts hold it, how often it occurs

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_REPEATED = re.compile(r"(\S)\1{3,}")


class _SymbolsAlone(dict[int, str]):
    """A table for `str.translate` that keeps symbols and turns all else into blanks."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        in_words = character.isdigit() or character.lower() != character.upper()
        self[code] = " " if in_words or character.isspace() else character
        return self[code]


_SYMBOLS = _SymbolsAlone()


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def frequent(texts: Sequence[str], least: float) -> Tally:
    """Return the n-grams that occur in a share of at least `least` of the texts.

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
    """Return how often these n-grams occur in the texts, without those that do not occur."""
    wanted = set(grams)
    found: Tally = {}
    for n in range(1, _LONGEST + 1):
        found |= _count(texts, n, wanted.__contains__)
    return found


def spelled(gram: Gram) -> str:
    """Return an n-gram as it stands in a text."""
    kind, *items = gram
    return (" " if kind == "word" else "").join(items)


def units(texts: Sequence[str]) -> int:
    """Return the number of words and symbols in all texts."""
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
    """Yield the kind and the items of each sequence of a text from which n-grams are taken."""
    lowered = text.lower()
    yield "word", _WORD.findall(lowered)
    for run in text.translate(_SYMBOLS).split():
        yield "symbol", run
    for match in _REPEATED.finditer(lowered):
        yield "symbol", (match[1] * 4,)


_PRIOR = 10.0  # responses (or words) that the prior weighs
_LEAST_SHARE = 0.05  # of the responses: n-grams in fewer of them are not compared
_LEAST_Z = 4.0
# a jump, by responses: 30 % or more hold it, by 16 times the odds (as from 4 % to 40 %), and not
# only because responses grew longer: by 3 times the odds per word
_RESPONSE_SHARE = 0.3
_RESPONSE_ODDS = math.log(16)
_RATE_ODDS = math.log(3)
# a jump, by words: a text that is this n-gram over and over
_WORD_SHARE = 0.1


@dataclass(frozen=True)
class Change:
    """One n-gram now and before: its shares of the responses (that hold it), and of all words and
    symbols; log-odds ratios and z-scores of both."""

    ngram: str
    kind: str
    responses: float
    responses_before: float
    words: float
    words_before: float
    log_odds: float
    z: float
    word_log_odds: float
    word_z: float

    @property
    def jumped(self) -> bool:
        in_more_responses = (
            self.responses >= _RESPONSE_SHARE
            and self.log_odds >= _RESPONSE_ODDS
            and self.z >= _LEAST_Z
            and self.word_log_odds >= _RATE_ODDS
        )
        return in_more_responses or self._fills_the_text

    @property
    def sure(self) -> float:
        """The larger z-score, per response or per word, of the n-gram being more frequent now."""
        return max(self.z, self.word_z)

    @property
    def _fills_the_text(self) -> bool:
        return (
            self.words >= _WORD_SHARE
            and self.word_log_odds >= _RATE_ODDS
            and self.word_z >= _LEAST_Z
        )

    def sentence(self, before: str) -> str:
        """Return a message, as `'#' now in 62 % of responses, 1 % at the start`."""
        if self.responses - self.responses_before >= self.words - self.words_before:
            now, then, where = self.responses, self.responses_before, "in {} of responses"
        else:
            now, then, where = self.words, self.words_before, "{} of all words"
        return f"{self.ngram!r} now {where.format(_percent(now))}, {_percent(then)} {before}"

    def row(self) -> dict[str, object]:
        """Return the change as a JSON object for reading, rounded to four decimals."""
        return {key: _short(value) for key, value in asdict(self).items()}


def changes(now: Sequence[str], before: Sequence[str]) -> list[Change]:
    """Return every n-gram in 5 % or more of the responses `now` that is more frequent than
    `before`, by falling z-score, of equals the longest first. Repetitions of one word or symbol
    are not compared, since that word or symbol is."""
    found = frequent(now, _LEAST_SHARE)
    old = tally(before, found)
    # where all responses before are empty, shares of them are 0
    responses, words = (len(now), len(before)), (units(now), max(units(before), 1))
    made = (
        _change(gram, found[gram], old.get(gram, (0, 0)), responses, words)
        for gram in found
        if len(gram) == 2 or len(set(gram[1:])) > 1
    )
    more = (one for one in made if one.sure > 0)
    return sorted(more, key=lambda one: (-one.sure, -len(one.ngram), one.ngram))


def jumps(found: Iterable[Change], named: Iterable[Change] = ()) -> list[Change]:
    """Return the changes that jumped, except those that overlap with an earlier one of them or with
    one of `named`: one phrase is one jump."""
    told = list(named)
    new: list[Change] = []
    for change in found:
        if change.jumped and not any(_overlap(change, other) for other in [*told, *new]):
            new.append(change)
    return new


def log_odds(
    times: tuple[int, int], sizes: tuple[int, int], prior: float = _PRIOR
) -> tuple[float, float]:
    """Return (log-odds ratio, its z-score) of `times` among `sizes`, each (now, before).

    The variance has both terms of the paper's eq. 19: its eq. 20 assumes that words are rare, but
    nearly every response may hold an n-gram.
    """
    alpha = prior * (sum(times) + 0.5) / (sum(sizes) + 1)  # between 0 and the prior, never at them
    odds, variance = [], 0.0
    for y, n in zip(times, sizes, strict=True):
        yes, no = y + alpha, n - y + prior - alpha
        odds.append(math.log(yes / no))
        variance += 1 / yes + 1 / no
    ratio = odds[0] - odds[1]
    return ratio, ratio / math.sqrt(variance)


def _change(
    gram: Gram,
    now: tuple[int, int],
    before: tuple[int, int],
    responses: tuple[int, int],
    words: tuple[int, int],
) -> Change:
    ratio, z = log_odds((now[0], before[0]), responses)
    word_ratio, word_z = log_odds((now[1], before[1]), words)
    return Change(
        ngram=spelled(gram),
        kind=gram[0],
        responses=now[0] / responses[0],
        responses_before=before[0] / responses[1],
        words=now[1] / words[0],
        words_before=before[1] / words[1],
        log_odds=ratio,
        z=z,
        word_log_odds=word_ratio,
        word_z=word_z,
    )


def _overlap(one: Change, other: Change) -> bool:
    """Return whether one n-gram is part of the other, or both have the same two items in a row."""
    if one.kind != other.kind:
        return False
    items = [
        tuple(change.ngram.split()) if change.kind == "word" else tuple(change.ngram)
        for change in (one, other)
    ]
    shorter = min(2, *map(len, items))
    pieces = [
        {item[start : start + shorter] for start in range(len(item) - shorter + 1)}
        for item in items
    ]
    return not pieces[0].isdisjoint(pieces[1])


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.01 else "under 1 %"


def _short(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value


_FILE = "ngrams.json"
_TOP = 20

Jump = tuple[str, Change]  # (message, change)


def write_ngrams(
    home: Path,
    now: Sequence[str],
    start: Sequence[str],
    previous: tuple[int, Sequence[str]] | None = None,
) -> list[Jump]:
    """Compare the responses of one evaluation with the starting policy's and with those of the
    evaluation before, and store the most changed n-grams of both. Return those that jumped.

    Args:
        previous: iteration and responses of the evaluation before; None for the starting policy's.
    """
    since_start = changes(now, start)
    found = [(one.sentence("at the start"), one) for one in jumps(since_start)]
    content: dict[str, object] = {"start": _top(since_start)}
    if previous is not None:
        iteration, texts = previous
        since_then = changes(now, texts)
        sudden = jumps(since_then, [one for _, one in found])
        found += ((one.sentence(f"in iteration {iteration}"), one) for one in sudden)
        content["previous"] = _top(since_then)
        content["previous_iteration"] = iteration
    # in full, since these are read back and judged again: a rounded one may lie below the limit
    content["jumps"] = [{"message": message, **asdict(one)} for message, one in found]
    write_json(home / _FILE, content)
    return found


def read_jumps(home: Path) -> list[Jump]:
    """Return the jumps stored in `home`; [] where nothing was compared (the starting policy's)."""
    if not (home / _FILE).exists():
        return []
    with intact(home / _FILE):
        rows = read_json(home / _FILE)["jumps"]
        return [(row.pop("message"), Change(**row)) for row in rows]


def new_jumps(now: Iterable[Jump], earlier: Iterable[Jump]) -> list[Jump]:
    """Return the jumps that do not overlap with those of any earlier evaluation."""
    fresh = set(jumps((one for _, one in now), [one for _, one in earlier]))
    return [(message, one) for message, one in now if one in fresh]


def _top(found: Sequence[Change]) -> list[dict[str, object]]:
    return [one.row() for one in found[:_TOP]]
