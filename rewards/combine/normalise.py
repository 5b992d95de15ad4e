"""Put the scores of one reward on a scale that others share.

Every normaliser is a function of one prompt's scores and constants fixed beforehand. None keeps
running statistics: a sample's reward would depend on what was scored before it, hence on the order
of workers and on resumption, and rewards of two iterations could not be compared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate

import numpy as np

from rewards.combine.checks import check_keys, finite_number
from rewards.combine.reduce import population_std
from rollout.data.scored_files import read_scores
from rollout.types import InputError

__all__ = ["Normaliser", "build_normaliser"]


@dataclass(frozen=True, slots=True)
class Normaliser:
    """`apply` maps the scores of one prompt's samples that are not missing, in their order.

    `within_group` says that a sample's value depends on the prompt's other samples. Its mean over
    a prompt then says nothing of the policy: select by such scores, but draw no curve of them.
    """

    name: str
    apply: Callable[[Sequence[float]], list[float]]
    within_group: bool = False
    constants: dict[str, object] = field(default_factory=dict)

    def __call__(self, scores_K: Sequence[float | None]) -> list[float | None]:
        """Normalise the K scores of one prompt; None stays None."""
        normalised = iter(self.apply([score for score in scores_K if score is not None]))
        return [None if score is None else next(normalised) for score in scores_K]

    def describe(self) -> dict[str, object]:
        return {"kind": self.name, **self.constants}


def build_normaliser(
    spec: str | Mapping[str, object] | Normaliser | None, where: str
) -> Normaliser:
    """Build a normaliser from its settings.

    Args:
        spec: "none" (or None); "group", the z-score among the prompt's samples; "rank", their
            ranks in [0, 1]; "sigmoid", 1 / (1 + e^−x); {"mean", "std"}, (x − mean) / std; or
            {"from": file}, mean and population std of the scores in a file (`read_scores`), with
            {"column": NAME} those of `raft score --output-column NAME`.
        where: what an error message begins with.

    Raises `InputError` for anything else, and for a file of fewer than two different scores.
    """
    if isinstance(spec, Normaliser):
        return spec
    name = "none" if spec is None else spec
    if isinstance(name, str):
        if name not in _NAMED:
            known = ", ".join(_NAMED)
            raise InputError(
                where,
                f"{name!r} is unknown",
                f"use one of {known}, {{mean, std}} or {{from: file}}",
            )
        return Normaliser(name, _NAMED[name], within_group=name in ("group", "rank"))
    given = check_keys(name, where, ("mean", "std", "from", "column"))
    if "from" in given and set(given) <= {"from", "column"}:
        return _fitted(given["from"], given.get("column"), where)
    if set(given) != {"mean", "std"}:
        raise InputError(where, "lacks mean and std", "give both, or from (and column)")
    return _standard(
        finite_number(given["mean"], f"{where}.mean"),
        finite_number(given["std"], f"{where}.std", above=0),
    )


def _fitted(path: object, column: object, where: str) -> Normaliser:
    if column is not None and not (isinstance(column, str) and column):
        raise InputError(
            f"{where}.column",
            f"{column!r} is no name",
            "give that of raft score --output-column",
        )
    scores = [score for score in read_scores(path, where, column) if score is not None]
    if len(scores) < 2:
        raise InputError(where, f"{path}: holds {len(scores)} scores", "2 are needed, many better")
    try:
        mean, std = math.fsum(scores) / len(scores), population_std(scores)
    except OverflowError:
        raise InputError(where, f"{path}: scores too large to have a mean and std") from None
    if std == 0:
        raise InputError(where, f"{path}: all {len(scores)} scores are equal", "no scale in them")
    named = {"column": column} if column else {}
    return _standard(mean, std, {"from": str(path), **named, "scores": len(scores)})


def _standard(mean: float, std: float, origin: dict[str, object] | None = None) -> Normaliser:
    constants = {"mean": mean, "std": std, **(origin or {})}
    return Normaliser("standard", partial(_shift_and_scale, mean=mean, std=std), False, constants)


def _shift_and_scale(scores_K: Sequence[float], *, mean: float, std: float) -> list[float]:
    return [(score - mean) / std for score in scores_K]


def _z_scores(scores_K: Sequence[float]) -> list[float]:
    """Return (x − mean) / population std of each score; 0 where all are equal, or there is one."""
    std = population_std(scores_K) if scores_K else 0.0
    # differences that small are rounding: a z-score would make them as large as any
    if std <= 1e-6 * max(map(abs, scores_K), default=0.0):
        return [0.0] * len(scores_K)
    return _shift_and_scale(scores_K, mean=math.fsum(scores_K) / len(scores_K), std=std)


def _ranks(scores_K: Sequence[float]) -> list[float]:
    """Return ranks in [0, 1]: 0 for the lowest score, 1 for the highest.

    Equal scores have their mean rank: ½ where all are equal, or there is one.
    """
    if len(scores_K) < 2:
        return [0.5] * len(scores_K)
    counts = sorted(Counter(scores_K).items())
    below = accumulate((count for _, count in counts), initial=0)
    rank = {
        score: (start + (count - 1) / 2) / (len(scores_K) - 1)
        for (score, count), start in zip(counts, below, strict=False)
    }
    return [rank[score] for score in scores_K]


def _sigmoids(scores_K: Sequence[float]) -> list[float]:
    from scipy.special import expit

    return expit(np.asarray(scores_K, dtype=np.float64)).tolist()


_NAMED: dict[str, Callable[[Sequence[float]], list[float]]] = {
    "none": list,
    "group": _z_scores,
    "rank": _ranks,
    "sigmoid": _sigmoids,
}
