"""The methods by name: their schedules, what they cost, and how they are fitted to a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rewards.tournament.brackets import (
    best_and_worst_schedule,
    double_elimination_schedule,
    knockout_schedule,
    pivot_schedule,
    sequential_schedule,
)
from rewards.tournament.round_robin import LEAGUE_SCORES, round_robin_schedule
from rewards.tournament.swiss import SWISS_SCORES, least_rounds, rounds_played, swiss_schedule
from rewards.tournament.types import Schedule
from rollout.types import InputError

__all__ = ["METHODS", "Method", "check_settings", "cost", "within_budget"]

Settings = Mapping[str, Any]


def _never(n: int, budget: int, settings: Settings) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Method:
    """A method of ranking n responses by comparisons.

    schedule: (n, rng, **settings) to the schedule to play.
    cost: (n, settings) to the number of comparisons.
    shrink: (n, budget, settings) to settings that fit a budget below the cost, None where none do.
    choices: allowed values of the settings that are names.
    counts: the settings that are whole numbers, 1 or more.
    """

    schedule: Callable[..., Schedule]
    cost: Callable[[int, Settings], int]
    shrink: Callable[[int, int, Settings], Settings | None] = _never
    choices: Mapping[str, tuple[str, ...]] | None = None
    counts: tuple[str, ...] = ()


def cost(method: str, n: int, *, budget: int | None = None, **settings: Any) -> int:
    """Return the comparisons that `method` asks for on n responses; forward passes are twice these.

    n − 1 for sequential, pivot and knockout, ⌈3n/2⌉ − 2 for best_and_worst, 2n − 2 for
    double_elimination, R⌊n/2⌋ for swiss in R rounds, n(n − 1)/2 for round_robin.

    Raises `InputError` for unknown methods and settings, n < 1, and what no budget allows.
    """
    check_settings(method, settings)
    return METHODS[method].cost(n, within_budget(method, n, budget, settings))


def check_settings(method: str, settings: Settings) -> None:
    """Check a method's settings.

    Raises `InputError` for an unknown method, unknown settings and unusable values.
    """
    if method not in METHODS:
        raise InputError(
            f"method {method!r}",
            "is unknown",
            f"use one of {', '.join(sorted(METHODS))}",
        )
    choices, counts = METHODS[method].choices or {}, METHODS[method].counts
    for name, value in settings.items():
        if name not in choices and name not in counts:
            known = ", ".join([*choices, *counts]) or "none"
            raise InputError(method, f"has no setting {name!r}: it has {known}")
        if name in choices and value not in choices[name]:
            allowed = ", ".join(choices[name])
            raise InputError(
                f"{name}={value!r}",
                f"is unknown to {method}",
                f"use one of {allowed}",
            )
        if name in counts and value is not None and not (_is_whole(value) and value >= 1):
            raise InputError(
                f"{name}={value!r}", f"must be a whole number, 1 or more, for {method}"
            )


def within_budget(method: str, n: int, budget: int | None, settings: Settings) -> Settings:
    """Return settings of `method` that rank n responses in `budget` comparisons.

    They are returned as given where they fit, or `budget` is None. Two methods can do with less:
    swiss plays fewer rounds (⌈log2 n⌉ at the least, and only where the number of rounds is not
    set), round_robin with score="bradley_terry" a random part of the pairs (n − 1 at the least).
    All else is refused: nothing is ranked by fewer comparisons than it needs, and no method is
    exchanged for another.

    Raises `InputError` where the method does not fit, naming its cost and those that do, and for n
    below 1 or a budget that is no whole number of 0 or more.
    """
    if not _is_whole(n) or n < 1:
        raise InputError("responses", f"a tournament needs 1 response or more, and has {n}")
    if budget is not None and (not _is_whole(budget) or budget < 0):
        raise InputError(f"budget={budget!r}", "must be a whole number of comparisons, 0 or more")
    needed = METHODS[method].cost(n, settings)
    if budget is None or needed <= budget:
        return settings
    smaller = METHODS[method].shrink(n, budget, settings)
    if smaller is not None:
        return smaller
    raise InputError(
        f"budget={budget}",
        f"{method} of {n} responses costs {needed} comparisons: {_what_fits(n, budget)}",
    )


def _what_fits(n: int, budget: int) -> str:
    costs = {name: one.cost(n, {}) for name, one in METHODS.items()}
    fits = [f"{name} ({needed})" for name, needed in costs.items() if needed <= budget]
    if budget >= n - 1:
        fits.append(f'round_robin with score="bradley_terry" ({budget} of its pairs)')
    return "use " + ", ".join(fits) if fits else f"every method needs {n - 1} or more"


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _n_minus_1(n: int, settings: Settings) -> int:
    return n - 1


def _both_ends(n: int, settings: Settings) -> int:
    return (3 * n + 1) // 2 - 2 if n > 1 else 0


def _twice(n: int, settings: Settings) -> int:
    return 2 * n - 2


def _swiss(n: int, settings: Settings) -> int:
    return rounds_played(n, settings.get("rounds")) * (n // 2)


def _fewer_rounds(n: int, budget: int, settings: Settings) -> Settings | None:
    rounds = budget // (n // 2)
    if settings.get("rounds") is not None or rounds < least_rounds(n):
        return None
    return {**settings, "rounds": rounds}


def _all_pairs(n: int, settings: Settings) -> int:
    pairs = n * (n - 1) // 2
    budget = settings.get("budget")
    return pairs if budget is None else min(pairs, budget)


def _part_of_pairs(n: int, budget: int, settings: Settings) -> Settings | None:
    if settings.get("score") != "bradley_terry" or budget < n - 1:
        return None
    return {**settings, "budget": budget}


METHODS: dict[str, Method] = {
    "sequential": Method(sequential_schedule, _n_minus_1),
    "knockout": Method(knockout_schedule, _n_minus_1),
    "pivot": Method(pivot_schedule, _n_minus_1),
    "best_and_worst": Method(best_and_worst_schedule, _both_ends),
    "double_elimination": Method(double_elimination_schedule, _twice),
    "swiss": Method(
        swiss_schedule, _swiss, _fewer_rounds, {"score": SWISS_SCORES}, counts=("rounds",)
    ),
    "round_robin": Method(
        round_robin_schedule, _all_pairs, _part_of_pairs, {"score": tuple(LEAGUE_SCORES)}
    ),
}
