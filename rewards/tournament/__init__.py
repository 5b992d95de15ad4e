"""Tournaments among the responses to a prompt, over any function that compares two of them.

`knockout(n, compare)` and its like rank one prompt's responses; `play(method, sizes, compare)`
ranks those of many, with one batch of comparisons per round. All of these are pure functions: a
seed decides what is drawn, and only `compare` knows what is compared.
"""

from rewards.tournament.bradley_terry import bradley_terry
from rewards.tournament.methods import METHODS, cost
from rewards.tournament.play import CompareMatches, play
from rewards.tournament.report import Report, intransitive_triples
from rewards.tournament.single import (
    ComparePairs,
    best_and_worst,
    double_elimination,
    knockout,
    pivot,
    round_robin,
    sequential,
    swiss,
)
from rewards.tournament.types import Match, Pair, Played, Standing, Tournament
from rewards.tournament.verdicts import Verdict

__all__ = [
    "METHODS",
    "CompareMatches",
    "ComparePairs",
    "Match",
    "Pair",
    "Played",
    "Report",
    "Standing",
    "Tournament",
    "Verdict",
    "best_and_worst",
    "bradley_terry",
    "cost",
    "double_elimination",
    "intransitive_triples",
    "knockout",
    "pivot",
    "play",
    "round_robin",
    "sequential",
    "swiss",
]
