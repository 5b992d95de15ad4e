"""Summarize selections: means over the selected rows with their intervals, ready for JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple
from typing import NotRequired, TypedDict

import numpy as np

from raft.bon.estimate import Estimate, estimate
from raft.stored.kept import SelectionStats
from raft.stored.tournament import Missing
from rewards.evaluation.stats import interval95, mean_ci95, resampled_ratios

__all__ = ["Outcome", "Value", "outcomes"]


class Value(Estimate):
    """A mean over the selected rows, with its interval over prompts.

    `draws_ci95` is the half width of the 95 % interval of the mean over random subsets: the error
    that a limited number of subsets leaves.
    """

    draws_ci95: float | None


class RuleColumns(TypedDict, total=False):
    """The fields of a rule in an outcome; they are absent for the run's own selection."""

    strategy: str
    arguments: Mapping[str, object]
    tournament: str | None
    settings: Mapping[str, object]


class Outcome(RuleColumns):
    """What one rule selects at one K.

    `draws` counts random subsets, 0 for exact expectations; `prompts_short` the prompts with fewer
    than K samples; `rows` and `prompts_kept` are expected numbers.
    """

    rule: str
    k: int
    draws: int
    prompts: int
    prompts_short: int
    rows: float
    prompts_kept: float
    kept_share: Estimate
    values: dict[str, Value]
    distinct_1: float | None
    distinct_2: float | None
    duplicate_share: float | None
    missing: NotRequired[Missing]


def outcomes(
    parts: Sequence[Sequence[SelectionStats]], hidden: Collection[str], *, resamples: int, seed: int
) -> list[Outcome]:
    """Summarize each rule and K over the prompts of all parts.

    A value's mean over the selected rows is its expected sum divided by their expected number. Its
    95 % interval resamples prompts, the same ones for every row; a prompt in several parts is one
    prompt. Diversity is the mean over parts, because each part is trained on separately. Values
    named in `hidden` are not reported.
    """
    keys = list(dict.fromkeys(_key(kept) for part in parts for kept in part))
    prompts = [part[0].ids for part in parts]
    known: dict[str, int] = {}
    prompt_P = np.array([known.setdefault(one, len(known)) for ids in prompts for one in ids])
    rows = [
        _Row([_find(part, key) for part in parts], list(map(len, prompts)), prompt_P, hidden)
        for key in keys
    ]
    tops_PS = np.stack([top_P for row in rows for top_P, _ in row.columns], axis=1)
    bottoms_PS = np.stack([bottom_P for row in rows for _, bottom_P in row.columns], axis=1)
    draws_BS = resampled_ratios(tops_PS, bottoms_PS, prompt_P, resamples=resamples, seed=seed)
    ends = np.cumsum([len(row.columns) for row in rows])[:-1]
    return [
        row.outcome(draws_BC)
        for row, draws_BC in zip(rows, np.split(draws_BS, ends, axis=1), strict=True)
    ]


class _Row:
    """One rule at one K in all parts; its statistics are None in parts with too few samples."""

    def __init__(
        self,
        kept: Sequence[SelectionStats | None],
        sizes: Sequence[int],
        prompt_P: np.ndarray,
        hidden: Collection[str],
    ) -> None:
        self._parts = list(zip(kept, sizes, strict=True))
        self._prompt_P = prompt_P
        self._kept = [one for one in kept if one is not None]
        self._names = [name for name in self._all_names() if name not in hidden]
        self._known_P = self._joined(lambda one: one.known_P) > 0
        self._rows_P = self._joined(lambda one: one.rows_P)
        samples_P = self._joined(lambda one: one.known_P * one.k)
        # (sum, number) of each value, and the share of samples kept
        self.columns = [*map(self._ratio, self._names), (self._rows_P, samples_P)]

    @property
    def k(self) -> int:
        return max(one.k for one in self._kept)

    def outcome(self, draws_BS: np.ndarray) -> Outcome:
        rule = self._kept[0].rule
        columns: RuleColumns = {}
        if rule is not None:
            columns = {
                "strategy": rule.strategy,
                "arguments": rule.arguments,
                "tournament": rule.tournament,
                "settings": rule.settings,
            }
        ratios = [
            _mean(top_P, bottom_P, draws_B, self._prompt_P)
            for (top_P, bottom_P), draws_B in zip(self.columns, draws_BS.T, strict=True)
        ]
        found: Outcome = {
            "rule": "as run" if rule is None else rule.label,
            **columns,
            "k": self.k,
            "draws": max(one.draws for one in self._kept),
            "prompts": int(self._known_P.sum()),
            "prompts_short": int((~self._known_P).sum()),
            "rows": float(self._rows_P.sum()),
            "prompts_kept": float(sum(one.prompts_P.sum() for one in self._kept)),
            "kept_share": ratios[-1],
            "values": {
                name: {**ratio, "draws_ci95": self._spread(name)}
                for name, ratio in zip(self._names, ratios[:-1], strict=True)
            },
            "distinct_1": self._diversity("distinct_1"),
            "distinct_2": self._diversity("distinct_2"),
            "duplicate_share": self._diversity("duplicate_share"),
        }
        if rule is not None and rule.tournament is not None:
            counts = zip(*(astuple(one.missing) for one in self._kept), strict=True)
            found["missing"] = Missing(*map(sum, counts))
        return found

    def _all_names(self) -> list[str]:
        return list(dict.fromkeys(name for one in self._kept for name in one.total))

    def _ratio(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        nothing = np.zeros(())
        return (
            self._joined(lambda one: one.total.get(name, nothing)),
            self._joined(lambda one: one.count.get(name, nothing)),
        )

    def _joined(self, column: Callable[[SelectionStats], np.ndarray]) -> np.ndarray:
        """Return (P,) values over the prompts of all parts, 0 in parts without this rule and K."""
        return np.concatenate(
            [np.zeros(size) + (0.0 if one is None else column(one)) for one, size in self._parts]
        )

    def _spread(self, name: str) -> float | None:
        halves = [mean_ci95(one.draw_means.get(name, []))[1] for one in self._kept]
        half = math.sqrt(math.fsum(half**2 for half in halves)) / len(halves)
        return half if math.isfinite(half) else None

    def _diversity(self, name: str) -> float | None:
        found = [one.diversity[name] for one in self._kept if not math.isnan(one.diversity[name])]
        return math.fsum(found) / len(found) if found else None


def _key(kept: SelectionStats) -> tuple[str | None, int]:
    # the run's own selection is one row, whatever K was drawn in each part
    return (None, 0) if kept.rule is None else (kept.rule.label, kept.k)


def _find(part: Sequence[SelectionStats], key: tuple[str | None, int]) -> SelectionStats | None:
    return next((kept for kept in part if _key(kept) == key), None)


def _mean(
    top_P: np.ndarray, bottom_P: np.ndarray, draws_B: np.ndarray, prompt_P: np.ndarray
) -> Estimate:
    bottom = bottom_P.sum()
    ends = interval95(draws_B, len(np.unique(prompt_P[bottom_P > 0])))
    mean = top_P.sum() / bottom if bottom > 0 else math.nan
    return estimate(mean, ends.low, ends.high)
