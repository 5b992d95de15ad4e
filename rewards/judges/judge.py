"""`PairwiseJudge`: a language model that says which of two responses is better."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Protocol

import numpy as np

from rewards.inference.engine import Engine
from rewards.judges.prompt import PairPrompt
from rewards.tournament.verdicts import Verdicts
from rewards.types import Comparison, NonFinite, check_non_finite, finite_or_missing
from rollout.data.pools import prompt_key
from rollout.types import InputError

__all__ = ["Judge", "PairwiseJudge", "check_temperature"]


class Judge(Protocol):
    """Anything that compares responses."""

    def compare(self, comparisons: Sequence[Comparison]) -> np.ndarray:
        """Return P(first is better) of N comparisons, (N,) in order; NaN is a missing verdict."""
        ...


class PairwiseJudge:
    """Turns comparisons into probabilities with a language model, each judged in both orders.

    Args:
        prompt: how comparisons become token ids.
        engine: how token ids become outputs: "log_odds" (N,) of label A against label B.
        name: for messages.
        temperature: divides the log-odds.
        non_finite: "raise", or "missing", which makes verdicts of NaN or infinity missing ones.

    `forward_passes` counts the rows that the engine was given: two for every distinct comparison
    of a call. Equal comparisons of one call are computed once.
    """

    kind = "pairwise"

    def __init__(
        self,
        prompt: PairPrompt,
        engine: Engine,
        *,
        name: str,
        temperature: float = 1.0,
        non_finite: NonFinite = "raise",
    ) -> None:
        check_non_finite(non_finite)
        check_temperature(temperature)
        self.prompt = prompt
        self.engine = engine
        self.name = name
        self.temperature = temperature
        self.non_finite: NonFinite = non_finite
        self.forward_passes = 0

    def compare(self, comparisons: Sequence[Comparison]) -> np.ndarray:
        """Return P(first is better) of N comparisons, float64 (N,) in order.

        P = ½ [σ(d1) + 1 − σ(d2)], d1 and d2 being the log-odds that the one shown as A wins, in the
        order given and swapped; P of a comparison and of its swap add up to 1. Raises `InputError`
        for a prompt that the template cannot show, `RewardError` for responses that do not fit and
        for log-odds that are not finite; with `non_finite="missing"` that comparison is NaN.
        """
        return self.verdicts(comparisons).probability_N

    def verdicts(
        self, comparisons: Sequence[Comparison], names: Sequence[str] | None = None
    ) -> Verdicts:
        """Return what `compare` does, with margins and position bias. Raises as it does.

        `names` are what error messages call the N comparisons.
        """
        if names is None:
            names = [f"comparison {index}" for index in range(len(comparisons))]
        # distinct comparison -> the first place it stands at
        places: dict[Hashable, int] = {}
        first_N = [places.setdefault(_key(one), at) for at, one in enumerate(comparisons)]
        distinct = list(places.values())
        log_odds_2N = np.full((2, len(comparisons)), np.nan)
        log_odds_2N[:, distinct] = self._log_odds(
            [comparisons[at] for at in distinct], [names[at] for at in distinct]
        )
        d1_N, d2_N = log_odds_2N[:, first_N]
        return Verdicts.from_log_odds(d1_N, d2_N, ~np.isfinite(d1_N - d2_N))

    def to(self, device: str) -> None:
        """Move the model, for a GPU that is shared in turn."""
        self.engine.to(device)

    def describe(self) -> dict[str, object]:
        """Return the settings that a verdict depends on, for a run's records."""
        return {
            "name": self.name,
            "kind": self.kind,
            "temperature": self.temperature,
            **self.prompt.describe(),
            **self.engine.describe(),
        }

    def _log_odds(self, comparisons: Sequence[Comparison], names: Sequence[str]) -> np.ndarray:
        """Return the log-odds that the one shown as A wins, (2, N): in the order given and swapped.

        They are divided by the temperature. Raises `RewardError` for log-odds that are not finite,
        unless `non_finite` is "missing".
        """
        if not comparisons:
            return np.zeros((2, 0))
        rows = self.prompt.encode_both(comparisons, names)
        row_names = [*names, *(f"{name} (swapped)" for name in names)]
        values = self.engine.run(rows, row_names)["log_odds"].astype(np.float64)
        self.forward_passes += len(rows)
        source = f"judge {self.name}"
        for value, where in zip(values.tolist(), row_names, strict=True):
            finite_or_missing(value, source=source, where=where, non_finite=self.non_finite)
        return values.reshape(2, len(comparisons)) / self.temperature


def verdicts_of(
    judge: Judge, named: Sequence[tuple[Comparison, str]]
) -> Verdicts | list[float | None]:
    """Ask a judge to compare; the name of each comparison is for error messages.

    Return the `Verdicts`, with position bias, of a judge that has `verdicts`. Of one that only has
    `compare`, return the list of P(first is better), with None for its NaN.
    """
    comparisons = [comparison for comparison, _ in named]
    verdicts = getattr(judge, "verdicts", None)
    if verdicts is not None:
        return verdicts(comparisons, names=[name for _, name in named])
    return [None if math.isnan(p) else p for p in map(float, judge.compare(comparisons))]


def check_temperature(temperature: float) -> None:
    """Check that a temperature is finite and above 0. Raises `InputError` where it is not."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise InputError(f"temperature={temperature}", "must be a number above 0")


def _key(one: Comparison) -> Hashable:
    return prompt_key(one.prompt), one.first, one.second
