"""What was kept as numbers to report: means over the rows kept, with intervals, ready for JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from raft.replay.kept import SelectionStats
from rewards.evaluation.stats import interval95, mean_ci95, resampled_ratios

__all__ = ["outcomes"]

_DIVERSITY = ("distinct_1", "distinct_2", "duplicate_share")


def outcomes(
    parts: Sequence[Sequence[SelectionStats]], hidden: Collection[str], *, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """One row per rule and K, over the prompts of all parts.

    A value's mean is over the rows kept: expected sum over expected number. Its 95 % interval is by
    resampling prompts, the same ones for every row; a prompt that several parts have is one prompt.
    Diversity is the mean over parts, each being a set of its own to train on. Values named in
    `hidden` are left out.
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
    start, found = 0, []
    for row in rows:
        stop = start + len(row.columns)
        found.append(row.told(draws_BS[:, start:stop]))
        start = stop
    return found


class _Row:
    """One rule at one K, in every part; None where a part stores too few samples."""

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

    def told(self, draws_BS: np.ndarray) -> dict[str, Any]:
        first = self._kept[0]
        ratios = [
            _mean(top_P, bottom_P, draws_B, self._prompt_P)
            for (top_P, bottom_P), draws_B in zip(self.columns, draws_BS.T, strict=True)
        ]
        return {
            "rule": "as run" if first.rule is None else first.rule.label,
            **({} if first.rule is None else asdict(first.rule)),
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
            **{name: self._diversity(name) for name in _DIVERSITY},
            **self._missing(),
        }

    def _all_names(self) -> list[str]:
        return list(dict.fromkeys(name for one in self._kept for name in one.total))

    def _ratio(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        nothing = np.zeros(())
        return (
            self._joined(lambda one: one.total.get(name, nothing)),
            self._joined(lambda one: one.count.get(name, nothing)),
        )

    def _joined(self, column: Callable[[SelectionStats], np.ndarray]) -> np.ndarray:
        """(P,) over the prompts of all parts, 0 for those of a part that has not this row."""
        return np.concatenate(
            [np.zeros(size) + (0.0 if one is None else column(one)) for one, size in self._parts]
        )

    def _spread(self, name: str) -> float | None:
        """Half width of the 95 % interval of the mean over subsets: what drawing leaves open."""
        halves = [mean_ci95(one.draw_means.get(name, []))[1] for one in self._kept]
        return _known(math.sqrt(math.fsum(half**2 for half in halves)) / len(halves))

    def _diversity(self, name: str) -> float | None:
        found = [one.diversity[name] for one in self._kept if not math.isnan(one.diversity[name])]
        return math.fsum(found) / len(found) if found else None

    def _missing(self) -> dict[str, Any]:
        rule = self._kept[0].rule
        if rule is None or rule.tournament is None:
            return {}
        counts = [asdict(one.missing) for one in self._kept]
        return {"missing": {name: sum(one[name] for one in counts) for name in counts[0]}}


def _key(kept: SelectionStats) -> tuple[str | None, int]:
    # what the run itself kept is one row, whatever was drawn in each part
    return (None, 0) if kept.rule is None else (kept.rule.label, kept.k)


def _find(part: Sequence[SelectionStats], key: tuple[str | None, int]) -> SelectionStats | None:
    return next((kept for kept in part if _key(kept) == key), None)


def _mean(
    top_P: np.ndarray, bottom_P: np.ndarray, draws_B: np.ndarray, prompt_P: np.ndarray
) -> dict[str, float | None]:
    bottom = bottom_P.sum()
    ends = interval95(draws_B, len(np.unique(prompt_P[bottom_P > 0])))
    mean = top_P.sum() / bottom if bottom > 0 else math.nan
    return {"mean": _known(mean), "low": _known(ends.low), "high": _known(ends.high)}


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
