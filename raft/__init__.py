"""RAFT and best-of-n for language models: the order of events.

>>> import raft
>>> raft.run("configs/stories_cpu.yaml", ["sampling.k=16"]).to_pandas()  # doctest: +SKIP
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raft.api.drawing import best_of_n as best_of_n
    from raft.api.drawing import sample as sample
    from raft.api.rewards import evaluate_reward as evaluate_reward
    from raft.api.rewards import rank as rank
    from raft.api.rewards import score as score
    from raft.api.rewards import train_reward as train_reward
    from raft.api.runs import draw_curves as draw_curves
    from raft.api.runs import replay as replay
    from raft.api.runs import run as run
    from raft.api.runs import write_report as write_report
    from raft.config.load import RunConfig as RunConfig
    from raft.config.load import load_config as load_config
    from raft.config.train_reward import TrainRewardConfig as TrainRewardConfig
    from raft.config.train_reward import load_train_config as load_train_config
    from rewards.build import build_reward as build_reward
    from rewards.judges.load import load_judge as load_judge
    from rewards.models.load import load_reward as load_reward
    from rewards.types import RewardError as RewardError
    from rollout.errors import EngineError as EngineError
    from rollout.errors import InputError as InputError

__version__ = "0.1.0"

# resolved on first use: importing this package must cost nothing
_HOMES = {
    "EngineError": "rollout.errors",
    "InputError": "rollout.errors",
    "RewardError": "rewards.types",
    "RunConfig": "raft.config.load",
    "TrainRewardConfig": "raft.config.train_reward",
    "best_of_n": "raft.api.drawing",
    "build_reward": "rewards.build",
    "draw_curves": "raft.api.runs",
    "evaluate_reward": "raft.api.rewards",
    "load_config": "raft.config.load",
    "load_judge": "rewards.judges.load",
    "load_reward": "rewards.models.load",
    "load_train_config": "raft.config.train_reward",
    "rank": "raft.api.rewards",
    "replay": "raft.api.runs",
    "run": "raft.api.runs",
    "sample": "raft.api.drawing",
    "score": "raft.api.rewards",
    "train_reward": "raft.api.rewards",
    "write_report": "raft.api.runs",
}
__all__ = [*sorted(_HOMES)]  # pyright: ignore[reportUnsupportedDunderAll]


class _OwnPackages:
    """Finds `rewards` and `rollout` beside this package, whatever a user's folder has."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in ("rewards", "rollout"):
            return None
        return PathFinder.find_spec(name, [str(Path(__file__).parents[1])])


sys.meta_path.insert(0, _OwnPackages)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'raft' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List what users call, and not what this file imports, for completion."""
    return sorted({*_HOMES, *(name for name in globals() if name.startswith("__"))})
