"""Everything that turns groups of responses into scores.

Importing this package loads neither torch nor transformers: names are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# bound at once, and light: else the import of the module of that name would take its place
from rewards.load_judge import load_judge

if TYPE_CHECKING:
    from rewards.build import build_reward
    from rewards.judge_reward import JudgeReward
    from rewards.load import load_reward
    from rewards.scalar_judge import ScalarJudge
    from rewards.types import Comparison, Reward, RewardError

__all__ = [
    "Comparison",
    "JudgeReward",
    "Reward",
    "RewardError",
    "ScalarJudge",
    "build_reward",
    "load_judge",
    "load_reward",
]

_HOMES = {
    "Comparison": "rewards.types",
    "JudgeReward": "rewards.judge_reward",
    "Reward": "rewards.types",
    "RewardError": "rewards.types",
    "ScalarJudge": "rewards.scalar_judge",
    "build_reward": "rewards.build",
    "load_reward": "rewards.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
