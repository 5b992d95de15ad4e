"""Take verbosity out of any scalar reward, by constants that are fixed beforehand.

The constants are fitted as in ArmoRM: the smallest penalty that removes the correlation with length
(Wang et al. 2024, arXiv 2406.12845, section on verbosity bias; grid, threshold and rule as in their
released stage 2). The correlation is signed: a reward that falls with length is left as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewards.combine.checks import check_keys, finite_number
from rewards.combine.length import Unit, response_length, unit
from rewards.evaluation.stats import spearman
from rollout.data.scored_files import read_scored, read_scores
from rollout.types import InputError

__all__ = [
    "PUBLISHED_GRID",
    "Debias",
    "Penalty",
    "build_debias",
    "find_penalty",
    "fit_debias",
    "penalty_matrix",
]

log = logging.getLogger("rewards")

# fmt: off
PUBLISHED_GRID = (
    0.0, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.35,
    0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95,
)
# fmt: on
PUBLISHED_THRESHOLD = 0.03
# the penalty of the published rule when nothing on the grid is enough
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
    """Return the smallest λ of `grid` with signed Spearman(r − λ·v, v) ≤ `threshold`.

    Args:
        rewards_N: (N,) rewards r of a reference set, finite.
        verbosity_N: (N,) verbosity v on a scale like that of r, finite and not constant.

    Raises `InputError` for fewer than 3 samples, or others than finite numbers of one length, and
    for a constant v. A correlation that is undefined, of a constant, meets no threshold, as
    published.
    """
    rewards_N, verbosity_N = _checked(rewards_N, verbosity_N)

    def correlation(penalty: float) -> float:
        return spearman(rewards_N - penalty * verbosity_N, verbosity_N)

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
    """Return ArmoRM's `reward_transform_matrix` M (K, K): adjusted_BK = rewards_BK @ M.

    M is the identity but for row v = `verbosity_index`: M[v, i] = −λ_i and M[v, v] = 1 − 1 = 0, so
    that adjusted_i = r_i − λ_i · r_v and adjusted_v = 0. λ_i is `find_penalty`'s for reward i.

    Args:
        rewards_NK: (N, K) rewards of a reference set, finite, as the regression layer gives them.

    Raises `InputError` as `find_penalty` does; a reward whose threshold is unmet is logged.
    """
    rewards_NK = np.asarray(rewards_NK, dtype=np.float64)
    if rewards_NK.ndim != 2 or not 0 <= verbosity_index < rewards_NK.shape[1]:
        raise InputError(
            f"verbosity_index {verbosity_index}",
            f"is no column of rewards of shape {rewards_NK.shape}",
            "give rewards (N, K) and an index below K",
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
    """Return what to tell the user where no penalty of the grid was enough."""
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
            "reference",
            f"rewards {rewards_N.shape} and verbosity {verbosity_N.shape} must both be (N,)",
        )
    if len(rewards_N) < 3:
        raise InputError("reference", f"has {len(rewards_N)} samples", "give 1000 or more")
    if not (np.isfinite(rewards_N).all() and np.isfinite(verbosity_N).all()):
        raise InputError(
            "reference", "rewards and verbosity must be finite", "remove samples without them"
        )
    if (verbosity_N == verbosity_N[0]).all():
        raise InputError(
            "reference", "all samples are equally verbose", "give samples of different lengths"
        )
    return rewards_N, verbosity_N


_CONSTANTS = ("penalty", "mean", "std", "scale")
_FITTED = ("reference", "verbosity_reference", "threshold")


@dataclass(frozen=True, slots=True)
class Debias:
    """adjusted = r − penalty · v′ with v′ = (v − mean) / std · scale.

    v is a response's length in `per`, or the score of the member called `member`. Lengths are not
    on the reward's scale, as ArmoRM's verbosity score is: `mean` and `std` are those of v over the
    reference set and `scale` is the std of r there, which makes `penalty` and its grid free of
    units. Standard deviations are the population's.
    """

    penalty: float
    mean: float
    std: float
    scale: float
    per: Unit = "word"
    member: str | None = None

    def amount(self, verbosity: float) -> float:
        """Return what to subtract from the reward of a response with this v; negative for v below
        `mean`."""
        return self.penalty * (verbosity - self.mean) / self.std * self.scale


def fit_debias(
    rewards_N: ArrayLike,
    verbosity_N: ArrayLike,
    *,
    threshold: float = PUBLISHED_THRESHOLD,
    per: Unit = "word",
    member: str | None = None,
) -> Debias:
    """Fit the constants to a reference set: rewards r (N,) without debiasing, and verbosity v (N,).

    `penalty` is `find_penalty`'s for r and v′; an unmet threshold is logged. Raises `InputError` as
    `find_penalty` does, and for rewards that are all equal.
    """
    rewards_N = np.asarray(rewards_N, dtype=np.float64)
    verbosity_N = np.asarray(verbosity_N, dtype=np.float64)
    mean, std, scale = _moments(rewards_N, verbosity_N)
    standard_N = (verbosity_N - mean) / std * scale
    found = find_penalty(rewards_N, standard_N, threshold=threshold)
    log.info(
        "verbosity debiasing: penalty %g, mean %.6g, std %.6g, scale %.6g; Spearman %.3f -> %.3f "
        "over %d samples (standard error about %.3f)",
        *(found.value, mean, std, scale, found.before, found.correlation),
        *(len(rewards_N), len(rewards_N) ** -0.5),
    )
    if not found.met:
        log.warning("verbosity debiasing: %s", unmet(found, threshold))
    return Debias(found.value, mean, std, scale, per, member)


def build_debias(settings: object, where: str) -> Debias | None:
    """Build a `Debias` from plain settings; return None for None.

    Args:
        settings: {"reference": file of responses and scores, "threshold"?} to fit the constants,
            or {"penalty", "mean", "std", "scale"}; either with "per" or "member". The reference
            holds the scores of this very reward without debiasing; with "member", the file
            "verbosity_reference" holds that member's scores of the same samples.

    Raises `InputError` for contradicting or missing settings and files that cannot be used.
    """
    if settings is None:
        return None
    given = check_keys(settings, where, (*_FITTED, *_CONSTANTS, "per", "member"))
    if "per" in given and "member" in given:
        raise InputError(where, "per and member both say what verbosity is", "leave one out")
    per = unit(given.get("per", "word"), f"{where}.per")
    member = None if given.get("member") is None else str(given["member"])
    fitted, constants = set(given) & set(_FITTED), set(given) & set(_CONSTANTS)
    if "reference" in fitted and not constants:
        return _from_reference(given, where, per, member)
    if fitted or constants != set(_CONSTANTS):
        raise InputError(
            where,
            "lacks a reference",
            f"give reference (a file of scores), or all of {', '.join(_CONSTANTS)}",
        )
    return Debias(
        penalty=finite_number(given["penalty"], f"{where}.penalty", at_least=0),
        mean=finite_number(given["mean"], f"{where}.mean"),
        std=finite_number(given["std"], f"{where}.std", above=0),
        scale=finite_number(given["scale"], f"{where}.scale", above=0),
        per=per,
        member=member,
    )


def _from_reference(given: dict[str, object], where: str, per: Unit, member: str | None) -> Debias:
    if ("verbosity_reference" in given) != (member is not None):
        raise InputError(where, "member and verbosity_reference go together", "give both")
    threshold = finite_number(
        given.get("threshold", PUBLISHED_THRESHOLD), f"{where}.threshold", at_least=-1
    )
    place = f"{where}.reference: {given['reference']}"
    if member is None:
        pairs = [
            (score, response_length(completion, per))
            for completion, score in read_scored(given["reference"], f"{where}.reference")
            if score is not None
        ]
    else:
        pairs = _paired_scores(given["reference"], given["verbosity_reference"], where)
    rewards_N, verbosity_N = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    try:
        return fit_debias(rewards_N, verbosity_N, threshold=threshold, per=per, member=member)
    except InputError as error:
        raise InputError(place, error) from error


def _paired_scores(reference: object, verbosity: object, where: str) -> list[tuple[float, float]]:
    rewards = read_scores(reference, f"{where}.reference")
    measured = read_scores(verbosity, f"{where}.verbosity_reference")
    if len(rewards) != len(measured):
        raise InputError(
            f"{where}.verbosity_reference",
            f"{len(measured)} scores for the reference's {len(rewards)}",
            "score the same file with both",
        )
    both = zip(rewards, measured, strict=True)
    return [(r, v) for r, v in both if r is not None and v is not None]


def _moments(rewards_N: np.ndarray, verbosity_N: np.ndarray) -> tuple[float, float, float]:
    if rewards_N.ndim != 1 or len(rewards_N) < 3:
        raise InputError("reference", f"has {rewards_N.size} samples", "give 1000 or more")
    for name, values_N in (("rewards", rewards_N), ("verbosity", verbosity_N)):
        if (values_N == values_N[0]).all():
            raise InputError("reference", f"all {name} are equal", "give samples that differ")
    return float(verbosity_N.mean()), float(verbosity_N.std()), float(rewards_N.std())
