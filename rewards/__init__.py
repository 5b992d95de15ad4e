"""Everything that turns groups of responses into scores.

Importing this package loads neither torch nor transformers: names are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewards.build import build_reward
    from rewards.judges.load import load_judge
    from rewards.judges.reward import JudgeReward
    from rewards.judges.scalar import ScalarJudge
    from rewards.models.load import load_reward
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
    "JudgeReward": "rewards.judges.reward",
    "Reward": "rewards.types",
    "RewardError": "rewards.types",
    "ScalarJudge": "rewards.judges.scalar",
    "build_reward": "rewards.build",
    "load_judge": "rewards.judges.load",
    "load_reward": "rewards.models.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
