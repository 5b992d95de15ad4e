"""Estimate what a rule selects from K samples per prompt, over random subsets of the stored ones.

Best of K has a closed form (order statistics, `raft.bon.estimate`); every other rule is a
mean over random subsets. With K = N there is one subset, and nothing is random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from raft.bon.estimate import expected_best_of_n
from raft.selection.filters import Filters
from raft.selection.rows import trained_samples
from raft.selection.rules import DRAWING, select, shuffled
from raft.stored.pool import Pool
from raft.stored.rules import Rule
from raft.stored.subsets import Subset, random_order, selectable, subset
from raft.stored.tournament import Missing, tournament_scores
from rollout.seeds import derive_seed

__all__ = ["DIVERSITY_DRAWS", "SelectionStats", "keep", "keep_own"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
# distinct-n differs little between subsets and costs more than everything else
DIVERSITY_DRAWS = 3


@dataclass(slots=True, eq=False)
class SelectionStats:
    """Sums over the selected rows of each prompt, expected over draws.

    Attributes:
        rule: None for the run's own selection.
        ids: ids of the prompts.
        known_P: prompts with K samples or more (of the run's own selection: all); the sums of
            others are 0.
        rows_P, prompts_P: number of selected rows; the share of draws with at least one.
        total, count: sum of each value over the selected rows, and how many of these have it.
        draws: number of subsets that the sums are means of; 0 for exact expectations.
        draw_means: one mean per draw of each value.
        picks: (P, N) flags of the rows selected in the first draws, to measure diversity on.
        diversity: distinct-n and the share of duplicates, means over the picks.
    """

    rule: Rule | None
    k: int
    ids: Sequence[str]
    known_P: Flags
    rows_P: Floats
    prompts_P: Floats
    total: dict[str, Floats]
    count: dict[str, Floats]
    draws: int
    draw_means: dict[str, list[float]] = field(default_factory=dict)
    picks: list[Flags] = field(default_factory=list)
    diversity: dict[str, float] = field(default_factory=dict)
    missing: Missing = field(default_factory=Missing)


def keep(
    pool: Pool,
    plan: Sequence[tuple[Rule, int]],
    filters: Filters,
    *,
    draws: int,
    seed: int,
) -> list[SelectionStats]:
    """Apply each rule at each K to random subsets, and return the statistics of what it selects.

    `plan` has the pairs to try, each checked by `Rule.check`. Every rule sees the same subsets.
    `seed` also seeds the tournaments.
    """
    sums = [_Sums(pool, rule, k) for rule, k in plan]
    exact = [_has_closed_form(rule, filters) for rule, _ in plan]
    for draw in range(draws):
        order_PN = random_order(pool, derive_seed(seed, "replay", draw))
        for one, closed in zip(sums, exact, strict=True):
            if draw < one.draws(DIVERSITY_DRAWS if closed else draws):
                one.add(subset(pool, one.k, order_PN), filters, seed, draw)
    found = [one.kept() for one in sums]
    for kept, closed in zip(found, exact, strict=True):
        if closed and kept.draws > 1:
            _expect_best(pool, kept, filters)
    return found


def keep_own(
    pool: Pool, strategy: str, arguments: Mapping[str, float], seed: int, shuffle: bool
) -> SelectionStats:
    """Repeat the run's own selection as `raft.selection.rows` makes it, and return its statistics.

    `seed` is the selection seed of the iteration.
    """
    assert pool.own_PN is not None, "only a run has a selection of its own"
    own_PN = shuffled(pool.own_PN, seed) if shuffle else pool.own_PN
    chosen_M2 = trained_samples(strategy, select(strategy, own_PN, seed=seed, **arguments))
    sums = _Sums(pool, None, pool.samples)
    sums.add_picks(_flags(pool.drawn_PN.shape, chosen_M2))
    return sums.kept()


class _Sums:
    """Sums of what one rule at one K selects, over random subsets."""

    def __init__(self, pool: Pool, rule: Rule | None, k: int) -> None:
        self.k = k
        self._pool, self._rule = pool, rule
        self._values = {"score": pool.score_PN, **pool.values}
        # the run's own selection was from all samples of each prompt
        self._known_P = pool.drawn_PN.sum(axis=1) >= (1 if rule is None else k)
        self._kept = np.zeros((len(pool.ids), 2))
        self._total = {name: np.zeros(len(pool.ids)) for name in self._values}
        self._count = {name: np.zeros(len(pool.ids)) for name in self._values}
        self._means: dict[str, list[float]] = {name: [] for name in self._values}
        self._picks: list[Flags] = []
        self._missing = Missing()
        self._added = 0

    def draws(self, most: int) -> int:
        """Return how many subsets to draw: `most`, or one where every prompt has just K samples.

        A rule that itself draws at random gets `most` there too.
        """
        sizes_Q = self._pool.drawn_PN.sum(axis=1)[self._known_P]
        chance = self._rule is not None and self._rule.strategy in DRAWING
        return 1 if (sizes_Q == self.k).all() and not chance else most

    def add(self, chosen: Subset, filters: Filters, seed: int, draw: int) -> None:
        rule, pool = self._rule, self._pool
        assert rule is not None, "the run's own selection draws nothing"
        if rule.tournament is not None:
            score_QK = tournament_scores(
                pool, chosen, rule.tournament, rule.settings, seed, self._missing
            )
        else:
            score_QK = chosen.of(pool.score_PN)
        found_QK = selectable(pool, chosen, score_QK, filters)
        own = derive_seed(seed, "select", draw)
        found_M2 = select(rule.strategy, found_QK, seed=own, **rule.arguments)
        found_M2 = trained_samples(rule.strategy, found_M2)
        at_M, k_M = found_M2.T
        samples_M2 = np.stack([chosen.prompts_Q[at_M], chosen.samples_QK[at_M, k_M]], axis=1)
        self.add_picks(_flags(pool.drawn_PN.shape, samples_M2))

    def add_picks(self, pick_PN: Flags) -> None:
        self._added += 1
        if len(self._picks) < DIVERSITY_DRAWS:
            self._picks.append(pick_PN)
        self._kept += np.stack([pick_PN.sum(axis=1), pick_PN.any(axis=1)], axis=1)
        for name, value_PN in self._values.items():
            known_PN = pick_PN & np.isfinite(value_PN)
            total_P = np.where(known_PN, value_PN, 0.0).sum(axis=1)
            self._total[name] += total_P
            self._count[name] += known_PN.sum(axis=1)
            if known_PN.any():
                self._means[name].append(float(total_P.sum() / known_PN.sum()))

    def kept(self) -> SelectionStats:
        times = max(self._added, 1)
        return SelectionStats(
            rule=self._rule,
            k=self.k,
            ids=self._pool.ids,
            known_P=self._known_P,
            rows_P=self._kept[:, 0] / times,
            prompts_P=self._kept[:, 1] / times,
            total={name: value_P / times for name, value_P in self._total.items()},
            count={name: value_P / times for name, value_P in self._count.items()},
            draws=self._added,
            draw_means=self._means,
            picks=self._picks,
            missing=self._missing,
        )


def _has_closed_form(rule: Rule, filters: Filters) -> bool:
    """Return whether the expectation over all subsets has a closed form: best of K by scores.

    Filters that compare a prompt's samples have none, since they depend on the subset.
    """
    by_others = filters.get("min_spread") is not None or filters.get("unique")
    return rule.strategy == "best_of_k" and rule.tournament is None and not by_others


def _expect_best(pool: Pool, kept: SelectionStats, filters: Filters) -> None:
    """Replace the sums over drawn subsets in `kept` by exact expectations over all subsets.

    An unselectable sample ranks below all others, and adds nothing where it is the best.
    """
    minimum = filters.get("min_score")
    fine_PN = np.isfinite(pool.score_PN) & ~pool.refused_PN
    if minimum is not None:
        fine_PN &= pool.score_PN >= minimum
    known_PN = pool.drawn_PN & kept.known_P[:, None]
    lowest = np.nextafter(np.min(pool.score_PN, where=fine_PN, initial=np.inf), -np.inf)
    score_PN = np.where(fine_PN, pool.score_PN, lowest if np.isfinite(lowest) else 0.0)
    score_PN = np.where(known_PN, score_PN, np.nan)

    def expected(value_PN: Floats | Flags) -> Floats:
        found_P = expected_best_of_n(score_PN, kept.k, np.where(fine_PN, value_PN, 0.0))
        return np.where(kept.known_P, found_P, 0.0)

    kept.rows_P = kept.prompts_P = expected(fine_PN)
    kept.draws, kept.draw_means = 0, {}
    for name in kept.total:
        value_PN = pool.score_PN if name == "score" else pool.values[name]
        has_PN = np.isfinite(value_PN)
        kept.total[name] = expected(np.where(has_PN, value_PN, 0.0))
        kept.count[name] = expected(has_PN)


def _flags(shape: tuple[int, ...], samples_M2: NDArray[np.int64]) -> Flags:
    pick_PN = np.zeros(shape, dtype=bool)
    pick_PN[tuple(samples_M2.T)] = True
    return pick_PN
