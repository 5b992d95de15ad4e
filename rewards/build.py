"""`build_reward`: from plain arguments to a `Reward`. Knows nothing of config files."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from rewards.types import Reward
from rollout.types import InputError

__all__ = ["KINDS", "build_reward"]


def build_reward(kind: str, **settings: Any) -> Reward:
    """Build the reward that `kind` names, from the settings of that kind.

    - "function": `function`, `arguments`, `name` (see `FunctionReward`)
    - "model": `model` and the settings of `load_reward` (its `kind` is `family` here)

    Settings that are None or empty count as not given.
    Raises `InputError` when the kind is unknown, its main setting is missing, or one that it does
    not know is given.
    """
    if kind not in KINDS:
        raise InputError(f"reward kind {kind!r} is unknown: use one of {', '.join(KINDS)}")
    needed, find = KINDS[kind]
    given = {key: value for key, value in settings.items() if value not in (None, "", {}, [])}
    if needed not in given:
        raise InputError(f'reward kind "{kind}" needs {needed}: none is given')
    build, renamed = find()
    arguments = {renamed.get(key, key): value for key, value in given.items()}
    known = inspect.signature(build).parameters
    unknown = [key for key in given if renamed.get(key, key) not in known]
    if unknown:
        raise InputError(f'reward kind "{kind}" has no use for {unknown[0]}: remove it')
    return build(**arguments)


# what builds a kind, and its settings that have another name there
Builder = tuple[Callable[..., Reward], dict[str, str]]


def _function() -> Builder:
    from rewards.function_reward import FunctionReward

    return FunctionReward, {}


def _model() -> Builder:
    from rewards.load import load_reward

    return load_reward, {"model": "path", "family": "kind"}


# kind -> the setting it cannot do without, and where its builder is imported
KINDS: dict[str, tuple[str, Callable[[], Builder]]] = {
    "function": ("function", _function),
    "model": ("model", _model),
}
