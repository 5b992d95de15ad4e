"""RAFT and best-of-n for language models: the order of events.

>>> from raft import load_config, run
>>> run(load_config("configs/stories_cpu.yaml", ["sampling.k=16"]))  # doctest: +SKIP
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raft.config.load import load_config as load_config
    from raft.curves import draw_curves as draw_curves
    from raft.loop import run as run

__version__ = "0.1.0"
__all__ = ["draw_curves", "load_config", "run"]

# resolved on first use: importing this package must cost nothing
_HOMES = {"draw_curves": "raft.curves", "load_config": "raft.config.load", "run": "raft.loop"}


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
