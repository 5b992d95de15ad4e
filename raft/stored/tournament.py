"""Play tournaments from stored comparisons, without a judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raft.stored.pool import Pool
from raft.stored.subsets import Subset
from rewards.tournament import Match, play

__all__ = ["Missing", "tournament_scores"]


@dataclass(slots=True)
class Missing:
    """Counts of prompts without a winner, because a comparison is not stored, and of comparisons.

    `comparisons` are those not stored, `of_comparisons` those asked for, which ends for a prompt
    with the first round in which one is missing.
    """

    prompts: int = 0
    of_prompts: int = 0
    comparisons: int = 0
    of_comparisons: int = 0


def tournament_scores(
    pool: Pool,
    chosen: Subset,
    method: str,
    settings: Mapping[str, Any],
    seed: int,
    missing: Missing,
) -> NDArray[np.float64]:
    """Return (Q, K) points among each prompt's samples in the subset, the highest for the winner.

    Equal texts are one entrant. A prompt for which a comparison is not stored gets NaN and is added
    to `missing`. With all samples and the seed of `raft rank` the ranking is the same as there.
    """
    assert pool.wins_PNN is not None, "rules that need comparisons are checked first"
    wins_PNN = pool.wins_PNN
    first_QK = chosen.of(pool.first_PN)
    fields = [_entrants(row) for row in first_QK.tolist()]
    texts = [list(places) for places in fields]
    prompts = chosen.prompts_Q.tolist()

    def compare(matches: Sequence[Match]) -> list[float | None]:
        at = [(prompts[q], texts[q][first], texts[q][second]) for q, first, second in matches]
        found_M = wins_PNN[tuple(np.array(at).T)]
        missing.comparisons += int(np.isnan(found_M).sum())
        return [None if value != value else value for value in found_M.tolist()]

    standings = play(
        method,
        [len(one) for one in texts],
        compare,
        seed=seed,
        keys=[pool.ids[p] for p in prompts],
        **settings,
    )
    missing.prompts += sum(standing.missing for standing in standings)
    missing.of_prompts += len(standings)
    missing.of_comparisons += sum(standing.comparisons for standing in standings)
    score_QK = np.full(first_QK.shape, np.nan)
    for q, (standing, places) in enumerate(zip(standings, fields, strict=True)):
        if not standing.missing:
            score_QK[q] = [standing.scores[places[first]] for first in first_QK[q].tolist()]
    return score_QK


def _entrants(first_K: Sequence[int]) -> dict[int, int]:
    places: dict[int, int] = {}
    for first in first_K:
        places.setdefault(first, len(places))
    return places
