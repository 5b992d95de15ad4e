"""ArmoRM's verbosity debiasing: the smallest penalty that takes length out of a reward.

Wang et al. 2024 (arXiv 2406.12845), section on the removal of verbosity bias; grid, threshold and
rule as in their released stage 2. Correlation is signed: that a reward falls with length is left.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewards.compose.spearman import average_ranks, pearson
from rollout.types import InputError

__all__ = ["PUBLISHED_GRID", "Penalty", "find_penalty", "penalty_matrix"]

log = logging.getLogger("rewards")

# fmt: off
PUBLISHED_GRID = (
    0.0, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.35,
    0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95,
)
# fmt: on
PUBLISHED_THRESHOLD = 0.03
# what the published rule keeps when nothing on the grid is enough
UNMET_PENALTY = 1.0


@dataclass(frozen=True, slots=True)
class Penalty:
    """`value` is λ; `correlation` is that of r − λ·v with v, `before` that of r with v.

    `met` is False where no λ of the grid was enough: the value is then 1, as published.
    """

    value: float
    correlation: float
    before: float
    met: bool


def find_penalty(
    rewards_N: ArrayLike,
    verbosity_N: ArrayLike,
    *,
    threshold: float = PUBLISHED_THRESHOLD,
    grid: Sequence[float] = PUBLISHED_GRID,
) -> Penalty:
    """The smallest λ of `grid` with signed Spearman(r − λ·v, v) ≤ `threshold`.

    Args:
        rewards_N: (N,) rewards r of a reference set, finite.
        verbosity_N: (N,) verbosity v on a scale like that of r, finite and not constant.

    Raises `InputError` for fewer than 3 samples, or others than finite numbers of one length. A
    correlation that is undefined, of a constant, meets no threshold, as published.
    """
    rewards_N, verbosity_N = _checked(rewards_N, verbosity_N)
    ranks_N = average_ranks(verbosity_N)

    def correlation(penalty: float) -> float:
        return pearson(average_ranks(rewards_N - penalty * verbosity_N), ranks_N)

    before = correlation(0.0)
    for penalty in sorted(grid):
        found = correlation(penalty) if penalty else before
        if found <= threshold:
            return Penalty(float(penalty), found, before, met=True)
    return Penalty(UNMET_PENALTY, correlation(UNMET_PENALTY), before, met=False)


def penalty_matrix(
    rewards_NK: ArrayLike,
    verbosity_index: int,
    *,
    threshold: float = PUBLISHED_THRESHOLD,
    grid: Sequence[float] = PUBLISHED_GRID,
) -> NDArray[np.float64]:
    """ArmoRM's `reward_transform_matrix` M (K, K): adjusted_BK = rewards_BK @ M.

    M is the identity but for row v = `verbosity_index`: M[v, i] = −λ_i and M[v, v] = 1 − 1 = 0, so
    that adjusted_i = r_i − λ_i · r_v and adjusted_v = 0. λ_i is `find_penalty`'s for reward i.

    Args:
        rewards_NK: (N, K) rewards of a reference set, finite, as the regression layer gives them.

    Raises `InputError` as `find_penalty` does; a reward whose threshold is unmet is logged.
    """
    rewards_NK = np.asarray(rewards_NK, dtype=np.float64)
    if rewards_NK.ndim != 2 or not 0 <= verbosity_index < rewards_NK.shape[1]:
        raise InputError(
            f"verbosity_index {verbosity_index} is no column of rewards of shape "
            f"{rewards_NK.shape}; give rewards (N, K) and an index below K"
        )
    count = rewards_NK.shape[1]
    penalties_K = np.full(count, UNMET_PENALTY)  # verbosity's own is 1 and makes it vanish
    for index in set(range(count)) - {verbosity_index}:
        found = find_penalty(
            rewards_NK[:, index], rewards_NK[:, verbosity_index], threshold=threshold, grid=grid
        )
        penalties_K[index] = found.value
        if not found.met:
            log.warning("verbosity debiasing of reward %d: %s", index, unmet(found, threshold))
    matrix_KK = np.eye(count)
    matrix_KK[verbosity_index] -= penalties_K
    return matrix_KK


def unmet(found: Penalty, threshold: float) -> str:
    """What to tell the user where no penalty of the grid was enough."""
    return (
        f"no penalty of the grid brings its correlation with verbosity ({found.before:.3f}) to "
        f"{threshold:g}; kept at {found.value:g} as published, which leaves {found.correlation:.3f}"
    )


def _checked(
    rewards_N: ArrayLike, verbosity_N: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rewards_N = np.asarray(rewards_N, dtype=np.float64)
    verbosity_N = np.asarray(verbosity_N, dtype=np.float64)
    if rewards_N.ndim != 1 or rewards_N.shape != verbosity_N.shape:
        raise InputError(
            f"rewards {rewards_N.shape} and verbosity {verbosity_N.shape} must both be (N,)"
        )
    if len(rewards_N) < 3:
        raise InputError(f"{len(rewards_N)} reference samples say nothing; give 1000 or more")
    if not (np.isfinite(rewards_N).all() and np.isfinite(verbosity_N).all()):
        raise InputError("reference rewards and verbosity must be finite; leave missing ones out")
    if (verbosity_N == verbosity_N[0]).all():
        raise InputError("all reference samples are equally verbose; nothing can be debiased")
    return rewards_N, verbosity_N
