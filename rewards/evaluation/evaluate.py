"""`raft eval-reward`: how good rewards are on a set of preferences, several side by side."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from rewards.evaluation.accuracy import accuracy, accuracy_by, length_bias
from rewards.evaluation.benchmarks import benchmark
from rewards.evaluation.calibration import calibration
from rewards.evaluation.dataset import EvalSet, read_set
from rewards.evaluation.forms import Form
from rewards.evaluation.scores import Scored, by_judge, by_reward, free_memory
from rewards.evaluation.stats import RESAMPLES, paired
from rewards.evaluation.stored import by_stored, write_scores
from rollout.errors import InputError
from rollout.seeds import derive_seed

__all__ = ["Scorer", "eval_reward"]

log = logging.getLogger("raft")

# more are no sources but names of single rows
_MOST_SOURCES = 500
_LABELLED = ("judgebench", "llmbar")
_FEWEST_FOR_LABELS = 10


@dataclass(frozen=True, slots=True)
class Scorer:
    """Who scores: `name` is what the user wrote, `settings` what `build_reward` or `build_judge`
    takes. Stored scores have their name (None: the plain columns) and no settings."""

    name: str | None
    settings: dict[str, Any] | None = None
    judge: bool = False


def eval_reward(
    data: str,
    scorers: Sequence[Scorer],
    *,
    form: Form | None = None,
    gold: str | None = None,
    split: str = "train",
    resamples: int = RESAMPLES,
    seed: int = 0,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Evaluate every scorer on the file or dataset `data`.

    Args:
        form: read rows as this form; by default as the one that the first row's columns fit.
        gold: the column of listwise rows that their known order stands in.
        resamples, seed: of all bootstrap intervals.
        keep: a JSONL file for the rows with the scores of every reward, as `by_stored` reads them.

    Returns:
        The report, all numbers as JSON has them, what is not known as None: `data` of the set,
        `models` by label and `comparisons` of each two of them. Shares are in [0, 1], scores of
        benchmarks in percent.

    Raises:
        InputError: anything wrong with the set, the settings or the stored scores.
        RewardError: a reward that scores none of the rows.
    """
    if not scorers:
        raise InputError(
            "eval-reward", "nothing to evaluate", "give --reward, --judge or --score-column"
        )
    found = read_set(data, form=form, gold=gold, split=split)
    _check(found, scorers)
    all_scored = [
        _scored(found, one, label) for one, label in zip(scorers, _labels(scorers), strict=True)
    ]
    if keep is not None:
        write_scores(found, all_scored, keep)
    draws = {"resamples": resamples, "seed": derive_seed(seed, "eval-reward")}
    return plain(
        {
            "data": _describe(found, data),
            "bootstrap": {"resamples": resamples, "seed": seed},
            "models": {one.label: _model(found, one, draws) for one in all_scored},
            "comparisons": [_compare(found, a, b, draws) for a, b in combinations(all_scored, 2)],
        }
    )


def plain(value: Any) -> Any:
    """As JSON holds it: NaN and infinity are None."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _scored(data: EvalSet, scorer: Scorer, label: str) -> Scored:
    if scorer.settings is None:
        result = by_stored(data, scorer.name, label)
    else:
        score: Callable[..., Scored] = by_judge if scorer.judge else by_reward
        result = score(data, scorer.settings, label)
        free_memory()
    missing = int((~np.isfinite(result.margins_M)).sum())
    if missing:
        log.warning("%s: %d of %d pairs have no verdict", label, missing, len(result.margins_M))
    return result


def _check(data: EvalSet, scorers: Sequence[Scorer]) -> None:
    if np.isnan(data.length_R).any() and any(one.settings is not None for one in scorers):
        raise InputError(
            data.source.name,
            "holds judgements and no responses, which a model could score",
            "use --score-column, or the file with response_A and response_B",
        )
    if data.form in _LABELLED and len(data.row_M) >= _FEWEST_FOR_LABELS:
        first_M = data.better_M < data.worse_M
        if first_M.all() or not first_M.any():
            log.warning(
                "%s: every label says that the %s answer is better; a judge that always says so "
                "would be right in all", data.source.name, "first" if first_M.all() else "second",
            )  # fmt: skip


def _describe(data: EvalSet, name: str) -> dict[str, Any]:
    return {
        "file": name,
        "form": data.form,
        "rows": len(data.ids),
        "pairs": len(data.row_M),
        "responses": len(data.gold_R),
        "prompts": len(np.unique(data.prompt_N)),
    }


def _model(data: EvalSet, scored: Scored, draws: dict[str, int]) -> dict[str, Any]:
    margins_M, prompt_M = scored.margins_M, data.prompt_M
    turns_M = data.turns_N[data.row_M].tolist()
    sources = len(set(data.source_N)) <= _MOST_SOURCES
    by_source = accuracy_by(data.source_M, margins_M, prompt_M, **draws) if sources else {}
    by_turns = accuracy_by(turns_M, margins_M, prompt_M, **draws)
    return {
        "settings": scored.settings,
        "accuracy": accuracy(margins_M, prompt_M, **draws).as_json(),
        "benchmark": benchmark(data, scored, **draws),
        "by_source": {k: by_source[k].as_json() for k in sorted(by_source)},
        "by_turns": {str(k): by_turns[k].as_json() for k in sorted(by_turns)},
        "calibration": asdict(calibration(margins_M)) if scored.log_odds else None,
        "length": _length(data, scored, draws),
        "position_bias": _position_bias(scored),
        "failed_rows": scored.failed,
        "failures": list(scored.reasons),
        "seconds": scored.seconds,
    }


def _length(data: EvalSet, scored: Scored, draws: dict[str, int]) -> dict[str, Any] | None:
    if np.isnan(data.extra_length_M).all():
        return None
    found = length_bias(scored.margins_M, data.extra_length_M, data.prompt_M, **draws)
    return {
        "unit": "characters",
        **{
            f"better_{name}": getattr(found, name).as_json()
            for name in ("longer", "shorter", "equal")
        },
        "prefers_longer": found.prefers_longer,
        "longer_is_better": found.longer_is_better,
        "spearman": found.spearman,
        "pearson": found.pearson,
    }


def _position_bias(scored: Scored) -> dict[str, float] | None:
    """What a judge's verdicts lose or win by the order shown."""
    if scored.position_bias_M is None:
        return None
    gap_M = scored.position_bias_M[np.isfinite(scored.position_bias_M)]
    if not len(gap_M):
        return None
    return {"mean": float(gap_M.mean()), "mean_size": float(np.abs(gap_M).mean())}


def _compare(data: EvalSet, a: Scored, b: Scored, draws: dict[str, int]) -> dict[str, Any]:
    found = paired(a.margins_M, b.margins_M, data.prompt_M, **draws)
    return {
        "a": a.label,
        "b": b.label,
        "difference": found.difference,
        "low": found.interval.low,
        "high": found.interval.high,
        "a_better": found.a_better,
        "pairs": found.pairs,
    }


def _labels(scorers: Sequence[Scorer]) -> list[str]:
    """A short name for each, told apart by numbers where two are the same."""
    names = [_short(one) for one in scorers]
    return [
        name if names.count(name) == 1 else f"{name} #{names[: at + 1].count(name)}"
        for at, name in enumerate(names)
    ]


def _short(scorer: Scorer) -> str:
    if scorer.name is None:
        return "stored"
    text, settings = scorer.name.removeprefix("function:"), scorer.settings or {}
    if text.lstrip().startswith("{"):
        text = str(settings.get("function") or settings.get("model") or settings["kind"])
    path = Path(text)
    return path.stem if path.suffix in (".yaml", ".yml") else path.name or text
