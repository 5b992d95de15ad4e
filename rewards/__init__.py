"""Everything that turns groups of responses into scores.

Importing this package loads neither torch nor transformers: names are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewards.build import build_reward
    from rewards.load import load_reward
    from rewards.types import Comparison, Reward, RewardError

__all__ = ["Comparison", "Reward", "RewardError", "build_reward", "load_reward"]

_HOMES = {
    "Comparison": "rewards.types",
    "Reward": "rewards.types",
    "RewardError": "rewards.types",
    "build_reward": "rewards.build",
    "load_reward": "rewards.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
