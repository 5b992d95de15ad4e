"""`build_reward`: from plain arguments to a `Reward`. Knows nothing of config files."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from rewards.types import Reward
from rollout.types import InputError

if TYPE_CHECKING:  # it needs numpy
    from rewards.judges.judge import Judge

__all__ = ["JUDGES", "KINDS", "build_judge", "build_reward", "check_judge", "check_reward", "takes"]


def build_reward(kind: str, **settings: Any) -> Reward:
    """Build the reward that `kind` names, from the settings of that kind.

    - "function": `function`, `arguments`, `name` (see `FunctionReward`)
    - "model": `model` and the settings of `load_reward` (its `kind` is `family` here)
    - "pairwise": `model` and the settings of `load_judge_reward`: a tournament among K responses
    - "combine": `members` and the settings of `build_combined`
    - "remote": `url` and the settings of `RemoteReward`

    Settings that are None or empty count as not given.
    Raises `InputError` when the kind is unknown, its main setting is missing, or one that it does
    not know is given.
    """
    build, arguments = _checked("reward", KINDS, kind, settings)
    return build(**arguments)


def check_reward(kind: str, **settings: Any) -> None:
    """Raise what `build_reward` would, as far as it shows without loading anything."""
    _checked("reward", KINDS, kind, settings)


def takes(kind: str, setting: str) -> bool:
    """Whether a reward of `kind` has this setting."""
    if kind not in KINDS:
        return False
    build, renamed = KINDS[kind][1]()
    return renamed.get(setting, setting) in inspect.signature(build).parameters


def build_judge(kind: str, **settings: Any) -> Judge:
    """Build what compares: "pairwise" with `model` and the settings of `load_judge`, or "remote"
    with `url` and those of `RemoteJudge`. Raises as `build_reward` does."""
    build, arguments = _checked("judge", JUDGES, kind, settings)
    return build(**arguments)


def check_judge(kind: str, **settings: Any) -> None:
    """Raise what `build_judge` would, as far as it shows without loading anything."""
    _checked("judge", JUDGES, kind, settings)


def _checked(
    what: str, kinds: Kinds, kind: str, settings: dict[str, Any]
) -> tuple[Callable[..., Any], dict[str, Any]]:
    if kind not in kinds:
        raise InputError(f"{what} kind {kind!r}", "is unknown", f"use one of {', '.join(kinds)}")
    needed, find = kinds[kind]
    given = {key: value for key, value in settings.items() if value not in (None, "", {}, [])}
    if needed not in given:
        raise InputError(f'{what} kind "{kind}"', f"needs {needed}: none is given")
    build, renamed = find()
    known = inspect.signature(build).parameters
    unknown = [key for key in given if renamed.get(key, key) not in known]
    if unknown:
        raise InputError(f'{what} kind "{kind}"', f"has no use for {unknown[0]}", "remove it")
    return build, {renamed.get(key, key): value for key, value in given.items()}


# what builds a kind, and its settings that have another name there
Builder = tuple[Callable[..., Any], dict[str, str]]
# kind -> the setting it cannot do without, and where its builder is imported
Kinds = dict[str, tuple[str, Callable[[], Builder]]]


def _function() -> Builder:
    from rewards.functions.reward import FunctionReward

    return FunctionReward, {}


def _model() -> Builder:
    from rewards.models.load import load_reward

    return load_reward, {"model": "path", "family": "kind"}


def _pairwise() -> Builder:
    from rewards.judges.reward import load_judge_reward

    return load_judge_reward, {}


def _combine() -> Builder:
    return _build_combined, {}


def _build_combined(
    members: Sequence[Mapping[str, Any]],
    reduce: str = "sum",
    std_weight: float | None = None,
    length_penalty: Mapping[str, Any] | None = None,
    debias: Mapping[str, Any] | None = None,
) -> Reward:
    from rewards.combine.build import build_combined

    return build_combined(
        build=lambda member: build_reward(**member),
        members=members,
        reduce=reduce,
        std_weight=std_weight,
        length_penalty=length_penalty,
        debias=debias,
    )


def _remote() -> Builder:
    from rewards.remote import RemoteReward

    return RemoteReward, {}


def _judge() -> Builder:
    from rewards.judges.load import load_judge

    return partial(load_judge, kind="pairwise"), {"model": "path"}


def _remote_judge() -> Builder:
    from rewards.remote import RemoteJudge

    return RemoteJudge, {}


KINDS: Kinds = {
    "function": ("function", _function),
    "model": ("model", _model),
    "pairwise": ("model", _pairwise),
    "combine": ("members", _combine),
    "remote": ("url", _remote),
}
JUDGES: Kinds = {
    "pairwise": ("model", _judge),
    "remote": ("url", _remote_judge),
}
