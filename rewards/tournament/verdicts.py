"""A judge's verdicts on N comparisons: probabilities, margins and position bias.

Every verdict is checked here: it is a probability, missing, or an error. `Verdicts` come from
log-odds of each pair in both orders; models and prompts are not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewards.types import RewardError

__all__ = [
    "MOST_LOGIT",
    "Answers",
    "Verdict",
    "Verdicts",
    "logit",
    "read_answers",
]

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Verdicts:
    """Verdicts on N comparisons (first, second), each an array (N,).

    With d1 the log-odds that `first` wins when it is shown first, and d2 the log-odds that
    `second` wins when that one is shown first:

    - `probability_N` = ½ [σ(d1) + 1 − σ(d2)], P(first is better), both orders averaged;
    - `margin_N` = ½ (d1 − d2), the same average taken of log-odds (LLM-Blender's PairRM);
    - `gap_N` = σ(d1) − (1 − σ(d2)), how much more `first` wins for being shown first: signed
      position bias, 0 for a judge that does not mind the order;
    - `missing_N`: comparisons that could not be judged; the other three are NaN there.

    At one comparison the two averages always agree on who wins, σ being monotone; summed over
    several comparisons they may not.
    """

    probability_N: Floats
    margin_N: Floats
    gap_N: Floats
    missing_N: NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Check that the arrays are of one shape (N,). Raises ValueError where they are not."""
        shapes = {field.name: getattr(self, field.name).shape for field in fields(self)}
        if len(set(shapes.values())) != 1 or self.probability_N.ndim != 1:
            raise ValueError(f"verdicts must be arrays of one shape (N,), and are {shapes}")

    @classmethod
    def from_log_odds(
        cls, first_order_N: ArrayLike, swapped_N: ArrayLike, missing_N: ArrayLike | None = None
    ) -> Verdicts:
        """Make verdicts from d1 and d2, each (N,): the log-odds that the one shown first wins.

        Swapping d1 and d2 gives the verdicts on (second, first): P becomes 1 − P, the margin
        changes its sign, the gap stays. No size of log-odds overflows; d1 = d2 is P = ½ exactly.

        Raises `RewardError` for log-odds that are not finite where `missing_N` does not say so,
        ValueError where the shapes differ.
        """
        d1_N, d2_N = _floats(first_order_N), _floats(swapped_N)
        missing_N = np.zeros(d1_N.shape, bool) if missing_N is None else np.asarray(missing_N, bool)
        if not d1_N.shape == d2_N.shape == missing_N.shape or d1_N.ndim != 1:
            raise ValueError(
                "log-odds must be of one shape (N,), and are "
                f"{d1_N.shape} and {d2_N.shape}, missing {missing_N.shape}"
            )
        _check_finite(d1_N, d2_N, missing_N)
        d1_N, d2_N = np.where(missing_N, np.nan, d1_N), np.where(missing_N, np.nan, d2_N)
        # σ(d) = ½ + ½ tanh(d/2): tanh saturates instead of overflowing, and is odd to the last
        # bit, so that equal log-odds cancel exactly and are seen as the ties they are
        first_N, second_N = np.tanh(d1_N / 2), np.tanh(d2_N / 2)
        return cls(
            probability_N=0.5 + (first_N - second_N) / 4,
            margin_N=d1_N / 2 - d2_N / 2,
            gap_N=(first_N + second_N) / 2,
            missing_N=missing_N,
        )

    def __len__(self) -> int:
        return len(self.probability_N)


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _check_finite(d1_N: Floats, d2_N: Floats, missing_N: NDArray[np.bool_]) -> None:
    bad_N = ~(np.isfinite(d1_N) & np.isfinite(d2_N)) & ~missing_N
    if bad_N.any():
        at = int(bad_N.argmax())
        raise RewardError(
            f"the judge gave log-odds {d1_N[at]} and {d2_N[at]} for comparison {at}: "
            f"they must be finite"
        )


Verdict: TypeAlias = Verdicts | Sequence[float | None] | NDArray[np.floating]

# P closer than this to 0 or 1 counts as this: a judge that rounds to 1 in half precision knows no
# more than that, and an infinite log-odds would outweigh all other comparisons of a response
_LEAST = 1e-6
MOST_LOGIT = float(np.log((1 - _LEAST) / _LEAST))


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """A batch of M comparisons, each an array (M,); NaN where missing, or where the gap is unknown.

    points_M are those of the first of each pair: 1 where it won, ½ for a tie, 0 where it lost.
    """

    probability_M: Floats
    margin_M: Floats
    gap_M: Floats
    points_M: Floats
    missing_M: NDArray[np.bool_]


def read_answers(verdict: Verdict, count: int, tie: float, where: Callable[[int], str]) -> Answers:
    """Check a `verdict` on `count` comparisons and return it; |P − ½| <= `tie` counts as a tie.

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
    """Return log-odds of probabilities, clipped to 1e-6 from 0 and 1: at most ±13.8."""
    from scipy.special import logit as log_odds

    return log_odds(np.clip(probability_M, _LEAST, 1 - _LEAST))


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
