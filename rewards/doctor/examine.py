"""Run all checks of one reward model, in the order in which their findings are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rewards.checkpoints.checkpoint import read_config
from rewards.checkpoints.hub import local_folder
from rewards.checkpoints.loading import resolve_device
from rewards.doctor.checkpoint import check_family, check_head, check_spread, family_of
from rewards.doctor.finding import Finding, wrong
from rewards.doctor.invariance import check_invariance
from rewards.doctor.judge import check_judge_pairs, check_judge_tokens, check_order
from rewards.doctor.model_under_test import ModelUnderTest
from rewards.doctor.pairs import Advance, check_obvious, check_pairs
from rewards.doctor.template import check_template
from rewards.doctor.tokens import check_limits, check_pad, check_tokens
from rewards.evaluation.dataset import EvalRow
from rewards.judges.judge import Judge
from rewards.models.load import load_reward
from rewards.models.reward import ModelReward
from rewards.types import Family, RewardError
from rollout.types import InputError

__all__ = ["examine", "examine_judge", "examine_reward"]

Check = tuple[str, Callable[[], Iterator[Finding]]]


def _silent(count: int) -> None:
    pass


def examine(
    path: str | Path,
    pairs: Sequence[EvalRow] | None = None,
    *,
    kind: Family | None = None,
    advance: Advance = _silent,
    **settings: Any,
) -> Iterator[Finding]:
    """Yield the findings of all checks of the model at `path`, as they are made.

    `pairs` are preference pairs of the user's to measure it on; `advance` is called with the number
    of those that are newly done. `settings` are those of `load_reward`. Raises `InputError` when
    `path` is no model's folder or there is no such device; a model that cannot be loaded is a
    finding.
    """
    folder = local_folder(path)
    read_config(folder)
    resolve_device(settings.get("device"))
    yield from _guarded("family", partial(check_family, path, folder, kind))
    yield from _guarded("weights", partial(check_head, folder))
    family = family_of(path, folder, kind)
    if family is None:
        return
    try:
        model = _load(family, path, kind, settings)
    except InputError as error:
        yield wrong("loading", str(error), "fix this first; the other checks need a loaded model")
        return
    if family == "pairwise":
        yield from examine_judge(model, pairs, advance)
    else:
        yield from examine_reward(model, folder, pairs, str(path), advance)


def examine_reward(
    reward: ModelReward,
    folder: Path,
    pairs: Sequence[EvalRow] | None = None,
    name: str = "",
    advance: Advance = _silent,
) -> Iterator[Finding]:
    """Yield the findings of a scalar reward model that is loaded already, from `folder`."""
    model = ModelUnderTest(reward, folder, name or str(folder))
    checks: list[Check] = [
        ("tokens", partial(check_tokens, model)),
        ("template", partial(check_template, model)),
        ("pad", partial(check_pad, model)),
        ("limits", partial(check_limits, model)),
        ("scores", partial(check_spread, model)),
        ("invariance", partial(check_invariance, model)),
        ("obvious pairs", partial(check_obvious, model)),
    ]
    if pairs:
        checks.append(("pairs", partial(check_pairs, model, pairs, advance)))
    for what, check in checks:
        yield from _guarded(what, check)


def examine_judge(
    judge: Judge, pairs: Sequence[EvalRow] | None = None, advance: Advance = _silent
) -> Iterator[Finding]:
    """Yield the findings of a pairwise judge that is loaded already."""
    checks: list[Check] = [
        ("tokens", partial(check_judge_tokens, judge)),
        ("order", partial(check_order, judge)),
    ]
    if pairs:
        checks.append(("pairs", partial(check_judge_pairs, judge, pairs, advance)))
    for what, check in checks:
        yield from _guarded(what, check)


def _load(
    family: Family, path: str | Path, kind: Family | None, settings: dict[str, object]
) -> Any:
    if family != "pairwise":
        # a score that is not finite is a finding here, not an exception
        return load_reward(path, kind=kind, **{"non_finite": "missing", **settings})
    from rewards.judges.load import load_judge

    for name in ("format", "bos", "eos"):
        if settings.pop(name, None) is not None:
            raise InputError(name, f"a pairwise judge has its own, leave --{name} out")
    return load_judge(path, kind="pairwise", **{"non_finite": "missing", **settings})


def _guarded(what: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield the findings of a check; an error of the check is yielded as a finding, not raised."""
    try:
        yield from check()
    except Exception as error:  # any error that a checkpoint causes is of interest to its user
        reason = " ".join(str(error).split())
        kind = "" if isinstance(error, InputError | RewardError) else f"{type(error).__name__}: "
        yield wrong(what, f"could not be checked: {kind}{reason}", "fix this first")
