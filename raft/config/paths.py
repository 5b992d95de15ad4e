"""Environment variables, `${NAME}`, in the strings of a config.

RAFT_DATA, the folder of shared data and models, falls back on ../shared where that exists.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

from rollout.data.jsonl import is_list, is_object
from rollout.errors import InputError

_T = TypeVar("_T")

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_DATA = "RAFT_DATA"
_ORIGIN = (
    "models/stories260k (karpathy/tinyllamas stories260K as a Hugging Face folder), "
    "data/tinystories (roneneldan/TinyStories) and others; or override the keys that name it, or "
    "try raft demo, which needs no data"
)


def data_root() -> Path | None:
    """Return the folder of shared data and models: $RAFT_DATA, else ../shared; None without either.

    ../shared is looked for beside the working directory, then beside the repository.
    """
    named = os.environ.get(_DATA)
    if named:
        return Path(named)
    beside = Path(__file__).resolve().parents[2].parent / "shared"
    return next((p for p in (Path("../shared"), beside) if p.is_dir()), None)


def expand_paths(value: _T, where: str) -> _T:
    """Replace `${NAME}` by the environment's value in every string of nested mappings and lists.

    Raises InputError for a variable that is not set; `where` and the keys name its place.
    """
    found: object = value
    if is_object(value):
        found = {key: expand_paths(item, f"{where}: {key}") for key, item in value.items()}
    elif is_list(value):
        found = [expand_paths(item, where) for item in value]
    elif isinstance(value, str):
        found = _VARIABLE.sub(lambda match: _lookup(match[1], where), value)
    return cast(_T, found)


@contextmanager
def shared_data() -> Generator[None]:
    """Rewrite an InputError about a file missing below RAFT_DATA, to say where the data come from.

    Other errors of the block pass unchanged.
    """
    try:
        yield
    except InputError as error:
        root = data_root()
        if root is None or "no such" not in str(error) or str(root) not in str(error):
            raise
        # the problem may contain a whole error: its own fix, the second sentence, is removed
        problem = error.problem.partition(". ")[0]
        raise InputError(error.where, problem, f"{_DATA} must hold {_ORIGIN}") from error


def _lookup(name: str, where: str) -> str:
    if name == _DATA and (root := data_root()) is not None:
        return str(root)
    if name not in os.environ:
        fix = f"export {name}=…"
        fix = f"{fix}, a folder with {_ORIGIN}" if name == _DATA else fix
        raise InputError(where, f"${{{name}}} is not set in the environment", fix)
    return os.environ[name]
