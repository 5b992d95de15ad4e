"""n-grams whose frequency jumps between two policies: the RAFT example's '#' collapse, by name.

Frequencies are compared by log-odds with an informative Dirichlet prior (Monroe, Colaresi & Quinn
2008, "Fightin' Words", eq. 15-22): the prior is the frequency in both texts together, so that what
is rare is not taken for what is new. Once per response (how many hold it) and once per word.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raft.monitor.grams import Gram, frequent, spelled, tally, units

__all__ = ["Change", "changes", "jumps", "log_odds"]

_PRIOR = 10.0  # responses (or words) that the prior weighs
_LEAST_SHARE = 0.05  # of the responses that hold an n-gram, to be looked at
_LEAST_Z = 4.0
# a jump, by responses: from 1 % of them to 14 %, were that enough, or from 4 % to 40 %; and not
# only because responses grew longer
_RESPONSE_SHARE = 0.3
_RESPONSE_ODDS = math.log(16)
_RATE_ODDS = math.log(3)
# a jump, by words: a text that is this n-gram over and over
_WORD_SHARE = 0.1


@dataclass(frozen=True)
class Change:
    """One n-gram now against before: shares of the responses that hold it, and of all words and
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
        """How sure it is that the n-gram is more frequent now, one way or the other."""
        return max(self.z, self.word_z)

    @property
    def _fills_the_text(self) -> bool:
        return (
            self.words >= _WORD_SHARE
            and self.word_log_odds >= _RATE_ODDS
            and self.word_z >= _LEAST_Z
        )

    def sentence(self, before: str) -> str:
        """`'#' now in 62 % of responses, 1 % at the start`."""
        if self.responses - self.responses_before >= self.words - self.words_before:
            now, then, where = self.responses, self.responses_before, "in {} of responses"
        else:
            now, then, where = self.words, self.words_before, "{} of all words"
        return f"{self.ngram!r} now {where.format(_percent(now))}, {_percent(then)} {before}"

    def row(self) -> dict[str, Any]:
        """As JSON, for people: four digits."""
        return {key: _short(value) for key, value in asdict(self).items()}


def changes(now: Sequence[str], before: Sequence[str]) -> list[Change]:
    """Every n-gram in 5 % or more of the responses `now` that is more frequent than `before`, the
    surest first; of n-grams that always stand together the longest. What is one word or symbol
    repeated counts as that one."""
    found = frequent(now, _LEAST_SHARE)
    old = tally(before, found)
    # a policy may have said nothing at all, and a share of nothing is 0
    responses, words = (len(now), len(before)), (units(now), max(units(before), 1))
    made = (
        _change(gram, found[gram], old.get(gram, (0, 0)), responses, words)
        for gram in found
        if len(gram) == 2 or len(set(gram[1:])) > 1
    )
    more = (one for one in made if one.sure > 0)
    return sorted(more, key=lambda one: (-one.sure, -len(one.ngram), one.ngram))


def jumps(found: Iterable[Change], named: Iterable[Change] = ()) -> list[Change]:
    """Those that jumped, without what overlaps with another of them or of `named`: one phrase is
    one jump."""
    told = list(named)
    new: list[Change] = []
    for change in found:
        if change.jumped and not any(_overlap(change, other) for other in [*told, *new]):
            new.append(change)
    return new


def log_odds(
    times: tuple[int, int], sizes: tuple[int, int], prior: float = _PRIOR
) -> tuple[float, float]:
    """(log-odds ratio, its z-score) of `times` among `sizes`, each (now, before).

    The variance has both of the terms that the paper's eq. 19 begins with: what nearly every
    response holds is not rare, as its eq. 20 takes words to be.
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
    """Whether one stands within the other, or both hold the same two neighbours."""
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


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
