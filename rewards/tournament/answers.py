"""The one gate that every comparison passes: a probability, a missing one, or an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rewards.types import RewardError
from rewards.verdicts import Verdicts

__all__ = ["MOST_LOGIT", "Answers", "Verdict", "logit", "read_answers"]

Verdict: TypeAlias = Verdicts | Sequence[float | None] | NDArray[np.floating]
Floats: TypeAlias = NDArray[np.float64]

# P closer than this to 0 or 1 counts as this: a judge that rounds to 1 in half precision knows no
# more than that, and an infinite log-odds would outweigh all other comparisons of a response
_LEAST = 1e-6
MOST_LOGIT = float(np.log((1 - _LEAST) / _LEAST))


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """A batch of M comparisons, each an array (M,); NaN where missing, or where the gap is unknown.

    points_M are those of the first: 1, ½ for a tie, 0.
    """

    probability_M: Floats
    margin_M: Floats
    gap_M: Floats
    points_M: Floats
    missing_M: NDArray[np.bool_]


def read_answers(verdict: Verdict, count: int, tie: float, where: Callable[[int], str]) -> Answers:
    """`verdict` on `count` comparisons, checked; |P − ½| <= `tie` counts as a tie.

    None, or `missing_N` of `Verdicts`, is a missing comparison. Margins that the judge does not
    give are the log-odds of its probabilities. `where(m)` names comparison m in errors.

    Raises `RewardError` for a wrong number of answers, NaN, and probabilities outside [0, 1].
    """
    if isinstance(verdict, Verdicts):
        probability_M, missing_M = verdict.probability_N, verdict.missing_N
        margin_M, gap_M = verdict.margin_N, verdict.gap_N
    else:
        probability_M, missing_M = _numbers(verdict)
        margin_M, gap_M = logit(probability_M), np.full(probability_M.shape, np.nan)
    if probability_M.shape != (count,):
        raise RewardError(
            f"the judge answered {_shape(probability_M)} where it was asked {count} comparisons"
        )
    _check(probability_M, margin_M, missing_M, where)
    tied_M = np.abs(probability_M - 0.5) <= tie
    points_M = np.where(tied_M, 0.5, probability_M > 0.5)
    return Answers(probability_M, margin_M, gap_M, points_M, missing_M)


def logit(probability_M: Floats) -> Floats:
    """Log-odds of probabilities, which count as no closer to 0 or 1 than 1e-6: at most ±13.8."""
    odds_M = np.clip(probability_M, _LEAST, 1 - _LEAST)
    return np.log(odds_M) - np.log1p(-odds_M)


def _numbers(
    verdict: Sequence[float | None] | NDArray[np.floating],
) -> tuple[Floats, NDArray[np.bool_]]:
    if isinstance(verdict, np.ndarray) and verdict.dtype != object:
        return verdict.astype(np.float64), np.zeros(verdict.shape, bool)
    try:
        missing_M = np.array([value is None for value in verdict], dtype=bool)
        values_M = [np.nan if value is None else value for value in verdict]
        return np.array(values_M, dtype=np.float64), missing_M
    except (TypeError, ValueError) as error:
        raise RewardError(f"the judge must answer with probabilities: {error}") from error


def _check(
    probability_M: Floats,
    margin_M: Floats,
    missing_M: NDArray[np.bool_],
    where: Callable[[int], str],
) -> None:
    # NaN compares false, and is caught with what lies outside
    fine_M = (probability_M >= 0) & (probability_M <= 1) & np.isfinite(margin_M)
    bad_M = ~fine_M & ~missing_M
    if not bad_M.any():
        return
    at = int(bad_M.argmax())
    raise RewardError(
        f"the judge gave probability {probability_M[at]}, log-odds {margin_M[at]} for {where(at)}: "
        f"a probability must lie in [0, 1], log-odds must be finite"
    )


def _shape(array_M: Floats) -> str:
    return str(len(array_M)) if array_M.ndim == 1 else f"an array of shape {array_M.shape}"
