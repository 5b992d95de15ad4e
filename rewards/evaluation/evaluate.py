"""Evaluate rewards on a set of preferences, several side by side: `raft eval-reward`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rewards.build import Place, as_judge, here
from rewards.evaluation.accuracy import accuracy, accuracy_by, length_bias
from rewards.evaluation.benchmarks import benchmark
from rewards.evaluation.calibration import calibration
from rewards.evaluation.contamination import find_contamination
from rewards.evaluation.dataset import EvalRow, EvalSet, read_set
from rewards.evaluation.forms import Form
from rewards.evaluation.results import (
    BootstrapFacts,
    EvalReport,
    ModelComparison,
    ModelResult,
    PositionBias,
    SetFacts,
)
from rewards.evaluation.scores import Scored, by_judge, by_reward, free_memory
from rewards.evaluation.stats import RESAMPLES, paired
from rewards.evaluation.stored import by_stored, write_scores
from rewards.scoring.reading import Reading
from rewards.spec import RewardSpec
from rollout.data.bad_rows import OnBadRow
from rollout.errors import InputError
from rollout.seeds import derive_seed

__all__ = ["Scorer", "eval_reward"]

log = logging.getLogger("raft")

# a set of more "sources" names single rows there: it gets no table by source
_MOST_SOURCES = 500
_LABELLED = ("judgebench", "llmbar")
_FEWEST_FOR_LABELS = 10


@dataclass(frozen=True, slots=True)
class Scorer:
    """What gives scores: a reward, a judge, or columns of the rows.

    `name` is what the user wrote; `spec` is built, as a judge where `judge` is set. Stored scores
    have a name (None for the plain columns) and no spec.
    """

    name: str | None
    spec: RewardSpec | None = None
    judge: bool = False


def eval_reward(
    data: str,
    scorers: Sequence[Scorer],
    *,
    form: Form | None = None,
    gold: str | None = None,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    train: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    keep: Path | None = None,
    on_bad_row: OnBadRow = "stop",
    place: Place = here,
) -> EvalReport:
    """Evaluate every scorer on the file or dataset `data`.

    Args:
        form: read rows as this form; by default as the one that the first row's columns fit.
        gold: the column of listwise rows that holds their known order.
        split, columns: the split of a dataset; other names of columns.
        train: a file of training pairs in which the evaluation's prompts are looked for.
        resamples, seed: of all bootstrap intervals.
        on_bad_row: "skip" skips and counts rows that cannot be read, by the set's form or by one
            of the scorers.
        place: where models run.
        keep: a JSONL file for the rows with the scores of every reward, as `by_stored` reads them.

    Raises:
        InputError: anything wrong with the set, the settings or the stored scores.
        RewardError: a reward that cannot score any of the first rows.
    """
    if not scorers:
        fix = "give --reward, --judge or --score-column"
        raise InputError("eval-reward", "nothing to evaluate", fix)
    specs = [one.spec for one in scorers if one.spec is not None]
    readings = [Reading(spec, length=on_bad_row == "skip") for spec in specs]

    def check(row: EvalRow) -> None:
        for reading in readings:
            reading.check(row)

    found = read_set(
        data, form=form, gold=gold, split=split, columns=columns, on_bad_row=on_bad_row,
        check=check,
    )  # fmt: skip
    _check(found, scorers)
    contamination = None if train is None else find_contamination(found, train)
    labelled = zip(scorers, _labels(scorers), strict=True)
    all_scored = [_scored(found, one, label, place) for one, label in labelled]
    if keep is not None:
        write_scores(found, all_scored, keep)
    draws = _Draws(resamples, derive_seed(seed, "eval-reward"))
    return EvalReport(
        data=_facts(found, data),
        bootstrap=BootstrapFacts(resamples, seed),
        models={one.label: _result(found, one, draws) for one in all_scored},
        comparisons=[_compare(found, a, b, draws) for a, b in combinations(all_scored, 2)],
        contamination=contamination,
    )


class _Draws(NamedTuple):
    """The settings of every bootstrap interval."""

    resamples: int
    seed: int


def _scored(data: EvalSet, scorer: Scorer, label: str, place: Place) -> Scored:
    if scorer.spec is None:
        result = by_stored(data, scorer.name, label)
    else:
        place = place if scorer.spec.needs_gpu else here
        if scorer.judge:
            result = by_judge(data, as_judge(scorer.spec), label, place)
        else:
            result = by_reward(data, scorer.spec, label, place)
        free_memory()
    missing = int((~np.isfinite(result.margins_M)).sum())
    if missing:
        log.warning("%s: %d of %d pairs have no verdict", label, missing, len(result.margins_M))
    return result


def _check(data: EvalSet, scorers: Sequence[Scorer]) -> None:
    if np.isnan(data.length_R).any() and any(one.spec is not None for one in scorers):
        raise InputError(
            data.source.name,
            "holds judgements and no responses, which a model could score",
            "use --score-column, or the file with response_A and response_B",
        )
    if data.form in _LABELLED and len(data.row_M) >= _FEWEST_FOR_LABELS:
        first_M = data.better_M < data.worse_M
        if first_M.all() or not first_M.any():
            log.warning(
                "%s: every label says that the %s response is better; a judge that always says so "
                "would be right in all", data.source.name, "first" if first_M.all() else "second",
            )  # fmt: skip


def _facts(data: EvalSet, name: str) -> SetFacts:
    return SetFacts(
        file=name,
        form=data.form,
        rows=len(data.ids),
        pairs=len(data.row_M),
        responses=len(data.gold_R),
        prompts=len(np.unique(data.prompt_N)),
        **data.bad.summary(),
    )


def _result(data: EvalSet, scored: Scored, draws: _Draws) -> ModelResult:
    margins_M, prompt_M, settings = scored.margins_M, data.prompt_M, draws._asdict()
    turns_M = data.turns_N[data.row_M].tolist()
    sources = len(set(data.source_N)) <= _MOST_SOURCES
    by_source = accuracy_by(data.source_M, margins_M, prompt_M, **settings) if sources else {}
    by_turns = accuracy_by(turns_M, margins_M, prompt_M, **settings)
    extra_M = data.extra_length_M
    known = not np.isnan(extra_M).all()
    return ModelResult(
        settings=scored.settings,
        accuracy=accuracy(margins_M, prompt_M, **settings),
        benchmark=benchmark(data, scored, **settings),
        by_source=dict(sorted(by_source.items())),
        by_turns=dict(sorted(by_turns.items())),
        calibration=calibration(margins_M) if scored.log_odds else None,
        length=length_bias(margins_M, extra_M, prompt_M, **settings) if known else None,
        position_bias=_position_bias(scored),
        failed_rows=scored.failed,
        failures=scored.reasons,
        seconds=scored.seconds,
    )


def _position_bias(scored: Scored) -> PositionBias | None:
    if scored.position_bias_M is None:
        return None
    gap_M = scored.position_bias_M[np.isfinite(scored.position_bias_M)]
    return PositionBias(float(gap_M.mean()), float(np.abs(gap_M).mean())) if len(gap_M) else None


def _compare(data: EvalSet, a: Scored, b: Scored, draws: _Draws) -> ModelComparison:
    found = paired(a.margins_M, b.margins_M, data.prompt_M, **draws._asdict())
    return ModelComparison(
        a=a.label,
        b=b.label,
        difference=found.difference,
        low=found.interval.low,
        high=found.interval.high,
        a_better=found.a_better,
        pairs=found.pairs,
    )


def _labels(scorers: Sequence[Scorer]) -> list[str]:
    """Return a short name for each scorer, numbered where two are the same."""
    names = [_short(one) for one in scorers]
    return [
        name if names.count(name) == 1 else f"{name} #{names[: at + 1].count(name)}"
        for at, name in enumerate(names)
    ]


def _short(scorer: Scorer) -> str:
    if scorer.name is None:
        return "stored"
    text = scorer.name.removeprefix("function:")
    if scorer.spec is not None and text.lstrip().startswith("{"):
        text = scorer.spec.label
    path = Path(text)
    return path.stem if path.suffix in (".yaml", ".yml") else path.name or text
