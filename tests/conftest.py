"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_configure() -> None:
    # no test of ours talks to a hub
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # models of a few thousand weights gain nothing from threads, and two workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Engines and clusters first: they take longest, and must not begin when the rest is done."""
    items.sort(key=lambda item: not is_engine(item))


def is_engine(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in ("vllm", "ray"))


@pytest.fixture(scope="session")
def raft_data() -> Path:
    """The folder of public models and data; tests that need it are skipped where it is not."""
    root = Path(os.environ.get("RAFT_DATA") or Path(__file__).parents[1].with_name("shared"))
    if not (root / "data").is_dir():
        pytest.skip(f"no public data in {root}: set RAFT_DATA to the folder that holds data/")
    return root
