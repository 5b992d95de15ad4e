"""RAFT and best-of-n for language models: the order of events.

>>> from raft import load_config, run
>>> run(load_config("configs/stories_cpu.yaml", ["sampling.k=16"]))  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raft.config.load import load_config as load_config
    from raft.curves import draw_curves as draw_curves
    from raft.loop import run as run

__version__ = "0.1.0"
__all__ = ["draw_curves", "load_config", "run"]

# resolved on first use: importing this package must cost nothing
_HOMES = {"draw_curves": "raft.curves", "load_config": "raft.config.load", "run": "raft.loop"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'raft' has no attribute {name!r}")
