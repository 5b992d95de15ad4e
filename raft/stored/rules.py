"""Parse what `raft replay` tries on stored samples: selectors, weighted scores, filters and K.

Where stored tournament points select, numbers at K < N are biased. The points of a bracket tell
which of all N responses won but not which is second, so the best of K by them is worse than what a
tournament of those K would find. The points of a round robin rest on more comparisons than K
responses have among themselves, so with a noisy judge the best of K by them is better. There is no
bias at K = N and K = 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from raft.adaptive import Adaptive
from raft.config.sampling import AdaptiveConfig
from raft.config.select import SelectConfig
from raft.selection.filters import Filters
from raft.selection.rules import ARGUMENTS, check_strategy
from rewards.combine.checks import finite_number
from rewards.combine.length import LengthPenalty, build_length_penalty
from rewards.spec_reader import complaints
from rewards.tournament import cost
from rewards.tournament.methods import check_settings
from rollout.data.overrides import parse_override
from rollout.data.samples import REWARD, SampleRow
from rollout.errors import InputError
from rollout.types import Completion

__all__ = [
    "Rule",
    "Scoring",
    "filters_at_work",
    "parse_adaptive",
    "parse_filters",
    "parse_penalty",
    "parse_rules",
    "parse_weights",
    "required_methods",
    "sweep",
    "sweep_points",
]

_BEST = "best_of_k"


@dataclass(frozen=True, slots=True)
class Rule:
    """A selector with its arguments, which uses stored scores, or a tournament with its settings.

    `tournament` names the method of the tournament, which is played from stored comparisons.
    """

    strategy: str
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])
    tournament: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def label(self) -> str:
        if self.tournament is not None:
            return " ".join([self.tournament, *_named(self.settings)])
        return " ".join([self.strategy, *_named(self.arguments)])

    def check(self, k: int) -> None:
        """Check that the rule can select from K samples per prompt. Raises InputError."""
        try:
            check_strategy(self.strategy, k, **self.arguments)
            if self.tournament is not None:
                cost(self.tournament, k, **self.settings)
        except InputError as error:
            raise InputError(self.label, f"{_unconfigured(error)}") from error


@dataclass(frozen=True, slots=True)
class Scoring:
    """The score that selects: a weighted sum of stored columns, less a penalty for length."""

    weights: dict[str, float] = field(default_factory=lambda: {REWARD: 1.0})
    length_penalty: LengthPenalty | None = None

    @property
    def plain(self) -> bool:
        """Return whether the score is the stored reward itself."""
        return self.weights == {REWARD: 1.0} and self.length_penalty is None

    def scores(self, row: SampleRow) -> list[float]:
        """Return the (K,) scores of a row, NaN where a column has no finite score.

        Raises InputError for a column that the row lacks, or a penalty that cannot be computed.
        """
        fix = "run raft score first, or name another with --reward-weights COLUMN=1"
        columns_WK = [row.scores_in(name, fix) for name in self.weights]
        found = [
            _weighted(list(self.weights.values()), at_W) for at_W in zip(*columns_WK, strict=True)
        ]
        if self.length_penalty is None:
            return found
        ids = row.token_ids or [[]] * len(found)
        parts = zip(found, row.responses, ids, strict=True)
        try:
            return [
                score - self.length_penalty.amount(Completion(text, tuple(tokens)))
                for score, text, tokens in parts
            ]
        except InputError as error:
            raise InputError(row.where, error) from error


def sweep(stored: int) -> tuple[int, ...]:
    """Return the K to try by default: powers of two below `stored`, and `stored`."""
    return (*(2**e for e in range(stored.bit_length()) if 2**e < stored), stored)


def parse_rules(text: str, *, tournaments: bool = False) -> list[Rule]:
    """Parse selectors, `best_of_k,top_m:m=2,threshold:min_score=0.5`, or names of tournaments.

    A rule that is named twice is returned once. Raises InputError for unknown names or arguments.
    """
    flag = "--tournament" if tournaments else "--strategy"
    entries = [entry.strip() for entry in text.split(",")]
    rules = [_tournament(one, flag) if tournaments else _rule(one, flag) for one in entries]
    return list({rule.label: rule for rule in rules}.values())


def parse_weights(text: str | None) -> dict[str, float]:
    """Parse weights of score columns, `scores=1,gold_scores=0.5`; None: the stored reward alone.

    Raises InputError for a weight that is 0 or not a finite number.
    """
    if text is None:
        return {REWARD: 1.0}
    given = _assignments(text.split(","), "--reward-weights", "scores=1,gold_scores=0.5")
    weights = {k: finite_number(v, f"--reward-weights {k}") for k, v in given.items()}
    for name, weight in weights.items():
        if weight == 0:
            raise InputError(f"--reward-weights {name}", "0 counts for nothing", "leave it out")
    return weights


def parse_penalty(text: str | None) -> LengthPenalty | None:
    """Parse a penalty for length, `weight=0.01,above=200,per=word`. Raises InputError."""
    if text is None:
        return None
    given = _assignments(text.split(","), "--length-penalty", "weight=0.01,above=200,per=word")
    return build_length_penalty(given, "--length-penalty")


def parse_filters(words: Sequence[str] | None, own: Filters) -> Filters:
    """Return the run's filters changed by `key=value` words; the word `none` removes them first.

    Raises InputError for a key that is no filter, or a value that a config would refuse.
    """
    known = SelectConfig().filters()
    start: Filters = {**known, **own}
    if not words:
        return start
    if "none" in words:
        start = known
    changes = [word for word in words if word != "none"]
    given = _assignments(changes, "--filter", "min_chars=2") if changes else {}
    for name in given:
        if name not in known:
            raise InputError(f"--filter {name}", "is no filter", f"there are {', '.join(known)}")
    try:
        return SelectConfig.model_validate({**start, **given}).filters()
    except ValidationError as error:
        at, message = complaints(error)[0]
        raise InputError(f"--filter {at}".rstrip(), message) from error


def parse_adaptive(text: str | None) -> Adaptive | None:
    """Parse settings of `sampling.adaptive`, `first=4,most=32,cost=0.05`. Raises InputError."""
    if text is None:
        return None
    given = _assignments(text.split(","), "--adaptive", "first=4,most=32")
    try:
        return TypeAdapter(AdaptiveConfig).validate_python(given)
    except ValidationError as error:
        at, message = complaints(error)[0]
        raise InputError(f"--adaptive {at}".rstrip(), message) from error


def filters_at_work(filters: Filters) -> dict[str, object]:
    """Return the filters that are on: those that differ from the defaults of a config."""
    without = dict(SelectConfig().filters())
    return {name: value for name, value in filters.items() if value != without[name]}


def _rule(entry: str, flag: str) -> Rule:
    name, arguments = _name_and_arguments(entry, flag)
    if "minimum" in arguments:  # the old name of min_score
        arguments["min_score"] = arguments.pop("minimum")
    known = {argument for names in ARGUMENTS.values() for argument in names}
    for one in (name for name in arguments if name not in known):
        raise InputError(
            f"{flag} {entry}",
            f"no selector has an argument {one!r}",
            f"there are {', '.join(sorted(known))}",
        )
    try:
        # how many samples there are is known later; here any number is taken to be enough
        check_strategy(name, 2**31, **arguments)
    except InputError as error:
        raise InputError(f"{flag} {entry}", f"{_unconfigured(error)}") from error
    return Rule(name, arguments)


def _tournament(entry: str, flag: str) -> Rule:
    name, settings = _name_and_arguments(entry, flag)
    try:
        # as a mapping first: a setting may have the name of a parameter of `cost`
        check_settings(name, {key: value for key, value in settings.items() if key != "budget"})
        cost(name, 2, **settings)
    except InputError as error:
        raise InputError(f"{flag} {entry}", error) from error
    return Rule(_BEST, tournament=name, settings=settings)


def _name_and_arguments(entry: str, flag: str) -> tuple[str, dict[str, Any]]:
    name, *rest = entry.split(":")
    if not name:
        raise InputError(flag, "an empty name", f"write {flag} best_of_k,top_m:m=2, for example")
    return name, _assignments(rest, f"{flag} {name}", "top_m:m=2") if rest else {}


def _assignments(words: Sequence[str], flag: str, example: str) -> dict[str, object]:
    return dict(parse_override(word, flag, example) for word in words)


def _unconfigured(error: InputError) -> str:
    """Reword a message about keys of a config for the command line."""
    text = str(error).replace("select.strategy: ", "").replace("select.", "")
    return text.replace(", or set sampling.k to", ", or choose --k of").replace("sampling.k", "--k")


def _weighted(weights_W: Sequence[float], scores_W: Sequence[float | None]) -> float:
    terms = [w * (math.nan if s is None else s) for w, s in zip(weights_W, scores_W, strict=True)]
    total = sum(terms)
    return total if math.isfinite(total) else math.nan


def _named(settings: Mapping[str, object]) -> list[str]:
    return [f"{name}={value}" for name, value in settings.items()]


# the method whose points rank all responses; `raft bon` draws a whole curve for the same one
_RANKS_ALL = "round_robin"


def required_methods(
    rule: Rule, weights: Mapping[str, float], judged: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return the methods of the tournaments whose stored points a rule selects by.

    The list is empty for a rule that plays a tournament from stored comparisons. `judged` maps
    score columns to the methods of the tournaments that fill them.
    """
    if rule.tournament is not None:
        return []
    return sorted({method for column in weights for method in judged.get(column, ())})


def sweep_points(
    rule: Rule, methods: Sequence[str], asked: Sequence[int] | None, stored: int
) -> tuple[Sequence[int], str | None]:
    """Return the K to try with `stored` samples per prompt, and a note on their bias, or None.

    The default sweep skips those K at which a bracket's points would understate the result; K that
    were asked for are all tried.
    """
    ks = sweep(stored) if asked is None else asked
    if not methods or not any(1 < k < stored for k in ks):
        return ks, None
    brackets = [method for method in methods if method != _RANKS_ALL]
    if not brackets:
        return ks, (
            f"points of {_RANKS_ALL} among all N stored responses select, and rest on more "
            "comparisons than K responses have among themselves: numbers at K < N may overstate "
            f"what a tournament of K would find; --tournament {_RANKS_ALL} plays that from stored "
            "comparisons"
        )
    said = (
        f"points of {' and '.join(brackets)} among all N stored responses select, and tell who won "
        "but not who is second: numbers at K < N tend to understate what a tournament of K would "
        "find"
    )
    if asked is not None:
        return (
            ks,
            f"{said}; with reward.tournament={_RANKS_ALL} a run stores what --tournament needs",
        )
    # one response is the best of itself, whatever its points
    lone = rule.strategy == "best_of_k"
    left = tuple(k for k in ks if k == stored or (k == 1 and lone))
    return left, f"{said}, and are given only where --k asks for them"
