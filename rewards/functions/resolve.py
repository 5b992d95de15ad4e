"""Resolve a function by name: a built-in, `package.module:attr`, or `path/to/file.py:attr`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType

from rewards.functions import BUILTINS
from rewards.functions.user_code import user_code
from rollout.types import InputError

__all__ = ["build_function", "resolve_function"]

RewardFunction = Callable[..., object]


def resolve_function(name: str) -> RewardFunction:
    """Return the callable that `name` stands for.

    Raises `InputError` where there is none, naming what is missing, and where; also for an
    attribute that cannot be called, and for a module or file that cannot be imported.
    """
    if name in BUILTINS:
        return BUILTINS[name]
    home, colon, attribute = name.rpartition(":")
    if not colon or not home or not attribute:
        raise InputError(f"function {name!r}", "no such reward function", _choices())
    module = _load_file(Path(home)) if home.endswith(".py") else _load_module(home)
    function = getattr(module, attribute, None)
    if function is None:
        ours = home.partition(".")[0] in ("raft", "rewards", "rollout")
        fix = f"for a file of yours write {home}.py:{attribute}" if ours else _choices()
        raise InputError(home, f"has no reward function {attribute!r}", fix)
    if not callable(function):
        raise InputError(
            f"{attribute!r} in {home}",
            f"is a {type(function).__name__}, not a function",
        )
    return function


def build_function(
    function: RewardFunction, name: str, arguments: Mapping[str, object]
) -> RewardFunction:
    """Return `function` with its settings fixed.

    Settings of a built-in are checked now, not in the first batch: raises `InputError` for one that
    it does not have, or that has a wrong type or value.
    """
    if function not in BUILTINS.values():
        return partial(function, **arguments)
    settings = {
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    # **columns would swallow a misspelt setting in silence
    unknown = sorted(set(arguments) - settings)
    if unknown:
        known = ", ".join(sorted(settings))
        raise InputError(name, f"no setting {unknown[0]!r}: it has {known}")
    built = partial(function, **arguments)
    try:
        built([], [], completion_ids=[])
    except TypeError as error:
        raise InputError(name, f"a setting has the wrong type: {error}") from error
    return built


# folders with modules of users that this process may have loaded
users: set[str] = set()


def _choices() -> str:
    known = ", ".join(sorted(BUILTINS))
    return f"use a built-in ({known}), package.module:function, or path/to/file.py:function"


def _load_module(home: str) -> ModuleType:
    where = f"module {home!r}"
    _look_in(Path.cwd())
    with user_code(lambda told: InputError(where, f"cannot be imported: it {told}")):
        try:
            return importlib.import_module(home)
        except ModuleNotFoundError as error:
            missing = error.name or home
            if home == missing or home.startswith(f"{missing}."):
                raise InputError(
                    f"module {missing!r}", "no such module for a reward function", _choices()
                ) from error
            raise


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(path, "no such file for a reward function", _choices())
    resolved = path.resolve()
    # one module per file: two files of the same name do not shadow each other
    digest = hashlib.sha256(os.fsencode(resolved)).hexdigest()[:12]
    module_name = f"reward_function_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(module_name, resolved)
    if spec is None or spec.loader is None:
        raise InputError(path, "cannot be imported as a Python file")
    module = importlib.util.module_from_spec(spec)
    # dataclasses and pickle look a class's module up by name
    sys.modules[module_name] = module
    _look_in(resolved.parent)
    with user_code(lambda told: InputError(path, f"cannot be imported: it {told}")):
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    return module


def _look_in(folder: Path) -> None:
    """Append a folder to `sys.path`, so that a user's modules in it can import each other.

    It comes last, so that no module in it replaces one of a library.
    """
    users.add(str(folder))
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
