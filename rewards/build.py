"""`build_reward`: from plain arguments to a `Reward`. Knows nothing of config files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rewards.bos import Bos
from rewards.families import Family
from rewards.formats import Format
from rewards.function_reward import FunctionReward
from rewards.load import load_reward
from rewards.truncation import TruncationSide
from rewards.types import NonFinite, Reward
from rollout.types import InputError

__all__ = ["build_reward"]

KINDS = ("function", "model")


def build_reward(
    kind: str,
    *,
    function: str | Callable[..., Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    name: str | None = None,
    model: str | Path | None = None,
    family: Family | None = None,
    format: Format | None = None,
    bos: Bos | None = None,
    engine: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    truncation_side: TruncationSide = "left",
    separator: str = "",
    non_finite: NonFinite = "raise",
) -> Reward:
    """Build the reward that `kind` names: "function" or "model".

    "function" takes `function`, `arguments` and `name` (see `FunctionReward`); "model" takes
    `model` and the settings of `load_reward` (`family` is its `kind`).
    Raises `InputError` when the kind is unknown, or its own argument is missing or another's given.
    """
    if kind == "function":
        _check_given("function", function, "model", model)
        return FunctionReward(function or "", name, arguments, non_finite=non_finite)
    if kind != "model":
        raise InputError(f"reward kind {kind!r} is unknown: use one of {', '.join(KINDS)}")
    _check_given("model", model, "function", function or arguments)
    return load_reward(
        model or "",
        kind=family,
        format=format,
        bos=bos,
        engine=engine,
        dtype=dtype,
        device=device,
        max_length=max_length,
        batch_tokens=batch_tokens,
        truncation_side=truncation_side,
        separator=separator,
        non_finite=non_finite,
    )


def _check_given(needed: str, value: object, other: str, other_value: object) -> None:
    if not value:
        raise InputError(f'reward kind "{needed}" needs {needed}: none is given')
    if other_value:
        raise InputError(f'reward kind "{needed}" has no use for {other}: remove it')
