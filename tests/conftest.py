"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ENGINES = "engines and clusters"


def pytest_configure() -> None:
    # no test of ours talks to a hub
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # models of a few thousand weights gain nothing from threads, and two workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each worker whole modules, and one of them all engines and clusters, one by one.

    Those come first: as the longest group they must not begin when the other worker is done.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(ENGINES if is_engine(item) else str(item.path)))
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
