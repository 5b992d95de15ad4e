from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_rewards as tiny


@pytest.fixture(scope="session")
def frozen() -> Iterator[None]:
    yield
    gc.unfreeze()  # what the interpreter finds alive at its end, some libraries complain of


@pytest.fixture(scope="module", autouse=True)
def no_search_of_libraries(frozen: None) -> None:
    """Keep the garbage collector off all that is imported: a million objects cost half a second a
    search, and transformers' trainers ask for two."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of public test data; tests that need it are skipped where it is not."""
    folder = Path(os.environ.get("RAFT_DATA", "../shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}: set RAFT_DATA to its parent folder")
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny checkpoint per family."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: tiny.checkpoint(root / name, name) for name in ("llama", "gpt2", "gpt_neo")}
