"""A judge out of plain settings, and its verdicts as a tournament takes them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from rewards.judge import Judge
from rewards.types import Comparison
from rewards.verdicts import Verdicts
from rollout.errors import InputError

__all__ = ["build_judge", "check_judge", "split_tournament", "verdicts_of"]

# how a reward of kind pairwise calls what `raft.rank_file.Tournament` holds
_TOURNAMENT = {"tournament": "method"} | {
    key: key for key in ("score", "rounds", "budget", "tie", "seed")
}
# kind -> the setting it cannot do without
_NEEDED = {"pairwise": "model", "remote": "url"}
_NOT_GIVEN = (None, "", {}, [])


def build_judge(settings: dict[str, Any]) -> Judge:
    """A judge: kind "pairwise" with `model` and what `load_judge` takes, "remote" with `url`.

    Raises InputError for other kinds, settings that the kind does not know, and as loading does.
    """
    check_judge(settings)
    given = {key: value for key, value in settings.items() if value not in _NOT_GIVEN}
    kind = given.pop("kind")
    return _builder(kind)(given.pop(_NEEDED[kind]), **given)


def check_judge(settings: dict[str, Any]) -> None:
    """Raise what `build_judge` would, as far as it shows without loading anything."""
    given = {key: value for key, value in settings.items() if value not in _NOT_GIVEN}
    kind = given.pop("kind", None)
    if kind not in _NEEDED:
        raise InputError(
            f"judge kind {kind!r} compares nothing: use pairwise or remote, or rank by --reward"
        )
    if _NEEDED[kind] not in given:
        raise InputError(f'judge kind "{kind}" needs {_NEEDED[kind]}: none is given')
    known = {*inspect.signature(_builder(kind)).parameters, _NEEDED[kind]}
    unknown = next((key for key in given if key not in known), None)
    if unknown is not None:
        raise InputError(f'judge kind "{kind}" has no use for {unknown}: remove it')


def split_tournament(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the judge's settings, those of the tournament beside them) of a reward of kind pairwise."""
    own = {key: value for key, value in settings.items() if key not in _TOURNAMENT}
    tournament = {_TOURNAMENT[key]: settings[key] for key in settings if key in _TOURNAMENT}
    return own, tournament


def verdicts_of(
    judge: Judge, named: Sequence[tuple[Comparison, str]]
) -> Verdicts | list[float | None]:
    """What a judge says of comparisons, with position bias where it tells; names are for errors."""
    comparisons = [comparison for comparison, _ in named]
    verdicts = getattr(judge, "verdicts", None)
    if verdicts is not None:
        return verdicts(comparisons, names=[name for _, name in named])
    # NaN is a missing verdict
    return [None if math.isnan(p) else p for p in map(float, judge.compare(comparisons))]


def _builder(kind: str) -> Callable[..., Judge]:
    if kind == "remote":
        from rewards.remote.judge import RemoteJudge

        return RemoteJudge
    from functools import partial

    from rewards.load_judge import load_judge

    return partial(load_judge, kind="pairwise")
