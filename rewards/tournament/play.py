"""Play many prompts' tournaments at once: one batch of comparisons per round, for all of them.

This module knows nothing of responses or models: it asks about pairs of numbers and gets verdicts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeAlias

from rewards.tournament.methods import METHODS, check_settings, within_budget
from rewards.tournament.types import (
    Match,
    Pair,
    Played,
    Ranking,
    Results,
    Schedule,
    Standing,
)
from rewards.tournament.verdicts import Answers, Verdict, read_answers
from rollout.types import InputError

__all__ = ["CompareMatches", "play"]

CompareMatches: TypeAlias = Callable[[Sequence[Match]], Verdict]


def play(
    method: str,
    sizes: Sequence[int],
    compare: CompareMatches,
    *,
    seed: int = 0,
    keys: Sequence[int | str] | None = None,
    tie: float = 0.0,
    budget: int | None = None,
    **settings: Any,
) -> list[Standing]:
    """Return the standings of P prompts with `sizes` responses, in order.

    compare: takes the matches of one round of all prompts and answers P(first is better) for each,
        as numbers, None being a missing one, or as `Verdicts`. A missing comparison makes the
        standing of its prompt missing.
    keys: P names that, with `seed`, decide all that is drawn for a prompt, so that its standing
        does not depend on the prompts it is played with; by default their places in the list.
    tie: |P − ½| up to this is a tie. The method decides what a tie leads to.
    budget: comparisons that one prompt may cost; see `within_budget` for what becomes of a method
        that needs more. `settings` are the method's own: score, rounds.

    Raises `InputError` before anything is compared: for unknown methods and settings, n < 1, and
    what the budget does not allow. Raises `RewardError` for verdicts that `read_answers` refuses.
    """
    check_settings(method, settings)
    if not 0 <= tie < 0.5:
        raise InputError(f"tie={tie}", "must lie in [0, 0.5): at 0.5 no response ever wins")
    names = range(len(sizes)) if keys is None else keys
    if len(names) != len(sizes):
        raise InputError(
            "keys", f"{len(sizes)} prompts need as many keys, and {len(names)} are given"
        )
    tournaments = []
    for n, name in zip(sizes, names, strict=True):
        fitting = within_budget(method, n, budget, settings)
        schedule = METHODS[method].schedule(n, Random(_seed(seed, name)), **fitting)
        tournaments.append(_Tournament(n, name, schedule))
    _play_rounds(tournaments, compare, tie)
    return [tournament.standing() for tournament in tournaments]


def _play_rounds(tournaments: list[_Tournament], compare: CompareMatches, tie: float) -> None:
    for tournament in tournaments:
        tournament.start()
    while True:
        matches = [
            Match(at, first, second)
            for at, tournament in enumerate(tournaments)
            for first, second in tournament.pairs
        ]
        if not matches:
            return

        def where(m: int, matches: list[Match] = matches) -> str:
            at, first, second = matches[m]
            return f"responses {first} and {second} of prompt {tournaments[at].name!r}"

        answers = read_answers(compare(matches), len(matches), tie, where)
        columns = _Columns(answers)
        start = 0
        for tournament in tournaments:
            stop = start + len(tournament.pairs)
            if stop > start:
                tournament.advance(columns, start, stop)
            start = stop


class _Columns:
    """A round's answers as lists, of which prompts take slices: far faster than slicing arrays."""

    def __init__(self, answers: Answers) -> None:
        self.probability = answers.probability_M.tolist()
        self.margin = answers.margin_M.tolist()
        self.points = answers.points_M.tolist()
        self.gap = [None if gap != gap else gap for gap in answers.gap_M.tolist()]
        self.missing = answers.missing_M.tolist()


class _Tournament:
    """One prompt's tournament while it is being played. `pairs` are those of the next round."""

    def __init__(self, n: int, name: int | str, schedule: Schedule) -> None:
        self.name = name
        self.pairs: list[Pair] = []
        self._n = n
        self._schedule = schedule
        self._ranking: Ranking | None = None
        self._rounds = 0
        self._asked = 0
        self._played: list[tuple[Pair, float, float, float, float | None]] = []

    def start(self) -> None:
        try:
            self.pairs = next(self._schedule)
        except StopIteration as end:
            self._ranking = end.value

    def advance(self, columns: _Columns, start: int, stop: int) -> None:
        """Take the round's answers, columns[start:stop], and draw up the next round."""
        part = slice(start, stop)
        self._rounds += 1
        self._asked += stop - start
        if any(columns.missing[part]):
            self._schedule.close()
            self.pairs = []
            return
        probability, margin = columns.probability[part], columns.margin[part]
        points = columns.points[part]
        self._played += zip(self.pairs, probability, margin, points, columns.gap[part], strict=True)
        try:
            self.pairs = self._schedule.send(Results(probability, margin, points))
        except StopIteration as end:
            self.pairs, self._ranking = [], end.value

    def standing(self) -> Standing:
        ranking = self._ranking or Ranking((), (), 0, 0)
        played = Played(*zip(*self._played, strict=True)) if self._played else Played()
        return Standing(
            order=ranking.order,
            scores=ranking.scores or (None,) * self._n,
            top=ranking.top,
            bottom=ranking.bottom,
            comparisons=self._asked,
            ties=played.points_M.count(0.5),
            rounds=self._rounds,
            played=played,
        )


def _seed(seed: int, key: int | str) -> int:
    """Return the seed of one prompt: the same on every machine, whatever else is in the batch."""
    text = f"tournament\x1f{seed}\x1f{type(key).__name__}:{key}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
