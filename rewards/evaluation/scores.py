"""Get the margins of a set's pairs from a reward or a judge; missing ones are NaN.

One model after the other is loaded and freed here, so that each needs to fit only alone.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import numpy as np
from scipy.special import logit

from rewards.build import Place, build_judge, build_reward, here
from rewards.evaluation.dataset import EvalRow, EvalSet
from rewards.judges.judge import Judge, verdicts_of
from rewards.scoring.job import in_order
from rewards.scoring.score import scores_of
from rewards.spec import JudgeSpec, RewardSpec
from rewards.tournament.verdicts import Verdicts
from rewards.types import Comparison, RewardError, calls_at_once
from rollout.errors import InputError
from rollout.progress import Progress
from rollout.types import judged_sides

__all__ = ["Scored", "by_judge", "by_reward", "free_memory"]

log = logging.getLogger("raft")

_CONVERSATIONS_AT_A_TIME = 512
_REASONS = 3
_HOPELESS = 8
# a probability of 0 or 1 would have infinite log-odds
_LEAST = float(np.finfo(np.float64).eps)

# values of one row, in its own order
Values = list[float]
Run = Callable[[Sequence[EvalRow]], list[Values]]


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The scores or verdicts of one scorer.

    Args:
        margins_M: of the set's pairs, better minus worse; NaN where missing.
        scores_R: of its responses; None from a scorer that only compares.
        log_odds: whether σ(margin) is meant as a probability.
        position_bias_M: how much more a judge prefers what is shown first; None where not known.
        reasons: why rows could not be scored, the first few; `failed` counts them all.
    """

    label: str
    settings: Mapping[str, object]
    margins_M: np.ndarray
    scores_R: np.ndarray | None = None
    log_odds: bool = True
    position_bias_M: np.ndarray | None = None
    failed: int = 0
    reasons: tuple[str, ...] = ()
    seconds: float | None = None


def by_reward(data: EvalSet, spec: RewardSpec, label: str, place: Place = here) -> Scored:
    """Score every response. A row that fails is missing; RewardError where all the first ones do.

    Raises InputError for settings that make no reward.
    """
    reward = place(partial(build_reward, spec))

    def run(rows: Sequence[EvalRow]) -> list[Values]:
        scores = iter(scores_of(reward, [group for row in rows for group in row.groups]))
        return [_floats(one for _ in row.groups for one in next(scores)) for row in rows]

    began, walk = time.monotonic(), _Walk(label, calls_at_once(reward))
    scores_R = np.array(walk.values(data, run, lambda row: len(row.gold)))
    seconds = time.monotonic() - began
    return Scored(
        label,
        spec.given(),
        data.margins(scores_R),
        scores_R,
        failed=walk.failed,
        reasons=tuple(walk.reasons),
        seconds=seconds,
    )


def by_judge(data: EvalSet, spec: JudgeSpec, label: str, place: Place = here) -> Scored:
    """Compare the two responses of every pair; margins are the log-odds of P(better wins).

    The position bias is known of judges that compare in both orders and give `Verdicts`. Raises as
    `by_reward` does. A pair whose two responses have two prompts cannot be compared.
    """
    judge = place(partial(build_judge, spec))

    def run(rows: Sequence[EvalRow]) -> list[Values]:
        verdicts = _verdicts(judge, [one for row in rows for one in _comparisons(row)])
        return [[value for _ in row.pairs for value in next(verdicts)] for row in rows]

    began, walk = time.monotonic(), _Walk(label, calls_at_once(judge))
    values_M2 = np.array(walk.values(data, run, lambda row: 2 * len(row.pairs))).reshape(-1, 2)
    probability_M, gap_M = values_M2.T
    seconds = time.monotonic() - began
    probability_M = np.clip(probability_M, _LEAST, 1 - _LEAST)
    return Scored(
        label,
        spec.given(),
        logit(probability_M),
        position_bias_M=gap_M,
        failed=walk.failed,
        reasons=tuple(walk.reasons),
        seconds=seconds,
    )


@dataclass(slots=True)
class _Walk:
    """A pass through a set in chunks; where a chunk fails its rows are tried one by one."""

    label: str
    at_once: int
    scored: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)

    def values(self, data: EvalSet, run: Run, count: Callable[[EvalRow], int]) -> list[float]:
        """Return the values of all rows, one after the other; `count` times NaN where one fails.

        Raises RewardError when none of the first rows can be scored.
        """
        found: list[float] = []
        with Progress(f"scoring by {self.label}", len(data.ids)) as bar:
            for chunk, result in in_order(run, _chunks(data.rows()), self.at_once):
                for values in self._chunk(chunk, run, count, result):
                    found += values
                bar.advance(len(chunk))
        if not self.scored:
            self._give_up()
        for reason in self.reasons:
            log.warning("%s: a row is missing: %s", self.label, reason)
        return found

    def _chunk(
        self,
        chunk: Sequence[EvalRow],
        run: Run,
        count: Callable[[EvalRow], int],
        result: Callable[[], list[Values]],
    ) -> list[Values]:
        try:
            values = result()
        except (InputError, RewardError) as error:
            if len(chunk) > 1:
                alone = in_order(run, ([row] for row in chunk), 1)
                return [
                    values for row, one in alone for values in self._chunk(row, run, count, one)
                ]
            self._note(f"{chunk[0].where}: {error}")
            return [[np.nan] * count(chunk[0])]
        self.scored += len(chunk)
        return values

    def _note(self, reason: str) -> None:
        self.failed += 1
        if len(self.reasons) < _REASONS:
            self.reasons.append(" ".join(reason.split()))
        # a server that is down, say: every further row would cost its retries
        if not self.scored and self.failed >= _HOPELESS:
            self._give_up()

    def _give_up(self) -> NoReturn:
        raise RewardError(
            f"{self.label}: none of the first {self.failed} rows can be scored; "
            f"the first of them: {self.reasons[0]}"
        )


def _chunks(rows: Iterator[EvalRow]) -> Iterator[list[EvalRow]]:
    chunk: list[EvalRow] = []
    held = 0
    for row in rows:
        chunk.append(row)
        held += len(row.gold)
        if held >= _CONVERSATIONS_AT_A_TIME:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _comparisons(row: EvalRow) -> list[tuple[Comparison, str]]:
    if len(row.groups) != 1:
        raise InputError("prompt", "the two responses have different ones, which no judge compares")
    (group,) = row.groups
    prompt, texts = judged_sides(group)
    name = f"prompt {group.prompt.id!r}"
    return [(Comparison(prompt, texts[i], texts[j]), name) for i, j in row.pairs]


def _verdicts(
    judge: Judge, named: Sequence[tuple[Comparison, str]]
) -> Iterator[tuple[float, float]]:
    """Return P(first is better) and the position bias of each comparison, NaN where not known."""
    if not named:
        return iter(())
    said = verdicts_of(judge, named)
    if isinstance(said, Verdicts):
        return zip(said.probability_N.tolist(), said.gap_N.tolist(), strict=True)
    return ((one, np.nan) for one in _floats(said))


def _floats(values: Any) -> Values:
    return [np.nan if value is None else float(value) for value in values]


def free_memory() -> None:
    """Free the memory that the last model held, before the next one is loaded."""
    gc.collect()
    torch = sys.modules.get("torch")  # not imported for a function's sake
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
