"""Checks of a run before its workers start: in seconds, without weights or a tokenizer.

`raft validate` makes them, and `raft.loop.run` before all else. Those that the training of a reward
model needs too are functions of their own.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, overload

from raft.config.paths import shared_data
from raft.plan.plan import check_fits
from raft.runs.prompts import Texts, check_counts, read_texts
from raft.workers.inline_executor import machine_gpus
from rewards.checkpoints.checkpoint import check_files, has_chat_template
from rewards.checkpoints.hub import check_model
from rollout.data.sources import find_source
from rollout.engines.base import stated_context_length
from rollout.errors import InputError
from rollout.storage.files import writing

if TYPE_CHECKING:
    from raft.config.run import RunConfig
    from rewards.spec import FunctionSpec, RewardSpec

__all__ = [
    "check_checkpoint",
    "check_length",
    "check_model_files",
    "check_reward",
    "check_run",
    "check_writable",
]

_GIVEN = {"prompts", "completions", "completion_ids", "self"}  # to every reward function


@overload
def check_run(config: RunConfig) -> Texts: ...


@overload
def check_run(config: RunConfig, *, hub: bool) -> Texts | None: ...


@shared_data()
def check_run(config: RunConfig, *, hub: bool = True) -> Texts | None:
    """Check the folders and files that a run names, its rewards, its lengths and its GPUs.

    Args:
        hub: look names up on the hub; without this they are assumed to be there.

    Returns:
        The prompts, which the checks read; None where they are on the hub and `hub` is False.

    Raises:
        InputError: the first thing that would end the run later.
    """
    check_writable(Path(config.run_dir))
    check_model_files("policy.model", config.policy.model, hub=hub)
    _check_lengths(config)
    _check_gpus(config)
    texts = read_texts(config) if hub or not _on_hub(config) else None
    if texts is not None:
        check_counts(config, texts)
        _check_template(config, texts)
    columns = {name for prompt in texts.prompts[:1] for name in prompt.fields} if texts else None
    for key, reward in config.rewards().items():
        check_reward(key, reward, columns, hub=hub)
    check_fits(config, hub=hub)
    return texts


def _on_hub(config: RunConfig) -> bool:
    mix = config.train.mix
    sources = [config.prompts.path, config.eval.prompts, mix.path if mix else None]
    return any(find_source(one).kind == "dataset" for one in sources if isinstance(one, str))


def check_writable(run_dir: Path) -> None:
    """Check that a file can be written in `run_dir`, by writing one; all that is made is deleted.

    Raises InputError where it cannot, or where `run_dir` is a file.
    """
    path, made = Path(os.path.realpath(run_dir)), list[Path]()
    with writing(f"run_dir={run_dir}", "choose another run_dir"):
        made = [one for one in (path, *path.parents) if not one.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        finally:
            for one in made:
                with contextlib.suppress(OSError):  # it is not there, or somebody uses it
                    one.rmdir()


def check_model_files(key: str, model: str, *, adapters: bool = False, hub: bool) -> None:
    """Check that a model exists and that its files are whole. Raises InputError where not.

    `key` is the config key that the error names.
    """
    check_model(model, key, adapters=adapters, hub=hub)
    folder = Path(model).expanduser()
    if not folder.is_dir() or (folder / "toy_policy.json").exists():
        return
    try:
        check_files(folder)
    except InputError as error:
        raise InputError(key, error) from error


def check_checkpoint(folder: Path | None) -> None:
    """Check that the files of a checkpoint of the run itself are whole; None is no checkpoint.

    Raises InputError where they are not.
    """
    try:
        if folder is not None:
            check_model_files("the policy", str(folder), hub=False)
    except InputError as error:
        fix = f"restore it, or delete {folder}: the same command trains it again"
        raise InputError(error.where, error.problem, fix) from error


def check_length(key: str, length: int | None, model: str) -> None:
    """Check that `length` (tokens) is not more than the files of the model state as its limit.

    Raises InputError where it is more.
    """
    own = stated_context_length(model)
    if own is not None and length is not None and length > own:
        fix = "lower it or leave it out"
        raise InputError(key, f"is {length}, but {model} takes {own} tokens", fix)


def _check_template(config: RunConfig, texts: Texts) -> None:
    """Check that the prompts fit the template: messages need one, and `plain` takes no messages.

    Raises InputError where they do not.
    """
    template, folder = config.policy.template, Path(config.policy.model).expanduser()
    messages = any(not isinstance(prompt.content, str) for prompt in texts.prompts[:1])
    if template == "plain" and messages:
        fix = "set it to chat, hh or hh_hash"
        raise InputError("policy.template", "is plain, but the prompts are messages", fix)
    needs = template == "chat" or (template == "auto" and messages)
    if needs and (folder / "config.json").is_file() and not has_chat_template(folder):
        raise InputError(
            "policy.template",
            f"the tokenizer of {config.policy.model} has no chat template",
            "set it to hh or hh_hash (plain takes text prompts only)",
        )


def _check_lengths(config: RunConfig) -> None:
    model, asked = config.policy.model, config.policy.max_model_len
    check_length("policy.max_model_len", asked, model)
    most, new = asked or stated_context_length(model), config.sampling.max_new_tokens
    if most is not None and new >= most:
        raise InputError(
            "sampling.max_new_tokens",
            f"is {new}, but prompt and response together take {most} tokens",
            "lower it",
        )


def _check_gpus(config: RunConfig) -> None:
    """Check that this machine has a GPU if the config asks for some, and that the workers fit them.

    Raises InputError. How many GPUs a cluster has is known only once it is joined.
    """
    wanted = config.cluster.gpus or 0
    if wanted and not machine_gpus() and config.cluster.address in ("inline", "local"):
        raise InputError(
            "cluster.gpus", f"is {wanted}, but this machine has no GPU", "lower it or leave it out"
        )
    if wanted:
        from raft.resources import place_workers

        place_workers(config, wanted)  # raises where the workers do not fit


def check_reward(
    key: str, reward: RewardSpec, columns: set[str] | None = None, *, hub: bool
) -> None:
    """Check a reward's models, functions and tournaments; `columns` are those of the prompts.

    Raises InputError.
    """
    for part in reward.parts():
        if part.kind == "model" or part.kind == "pairwise":
            check_model_files(f"{key}.model", part.model, adapters=True, hub=hub)
            check_length(f"{key}.max_length", part.max_length, part.model)
        _check_part(key, part, columns)


def _check_part(key: str, part: RewardSpec, columns: set[str] | None) -> None:
    try:
        if part.kind == "function" and isinstance(part.function, str):
            _check_function(key, part, part.function, columns)
        elif part.kind == "pairwise":
            from rewards.judges.reward import check_tournament

            check_tournament(part.rules())
    except InputError as error:
        raise InputError(key, error) from error


def _check_function(key: str, spec: FunctionSpec, name: str, columns: set[str] | None) -> None:
    """Check a built-in reward function by building it, a user's by parsing its file, unexecuted.

    Raises InputError for a function that does not exist or needs more than the given arguments.
    """
    from rewards.functions import BUILTINS
    from rewards.functions.reward import FunctionReward

    home, colon, attribute = name.rpartition(":")
    source = None
    if name not in BUILTINS and colon:
        source = Path(home).expanduser() if home.endswith(".py") else _source_of(home)
    if source is None or not source.is_file():
        if name in BUILTINS or not colon or home.endswith(".py"):
            FunctionReward(name, arguments=spec.arguments)  # raises where something is wrong
        return
    try:
        tree = ast.parse(source.read_bytes(), str(source))
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise InputError(f"{source}{line}", f"cannot be read as Python ({error})") from error
    bound = dict(_bound(tree.body))
    if attribute not in bound:
        if "*" not in bound and "__getattr__" not in bound:
            raise InputError(source, f"has no reward function {attribute!r}", "name one it has")
        return
    found = bound[attribute]
    if columns is not None and isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef):
        missing = [one for one in _required(found) if one not in columns | set(spec.arguments)]
        if missing:
            raise InputError(
                f"{source}:{found.lineno}",
                f"{attribute} needs {missing[0]!r}, which is no column of the prompts",
                f"give it a default, a column, or {key}.arguments",
            )


def _source_of(module: str) -> Path | None:
    """Return the file of a module; None for a submodule, whose parent would have to be imported.

    None also for a module without a .py file. Raises InputError where there is no such module.
    """
    top = importlib.util.find_spec(module.partition(".")[0])
    if top is None:
        raise InputError(f"module {module!r}", "no such module for a reward function")
    if "." in module or top.origin is None or not top.origin.endswith(".py"):
        return None
    return Path(top.origin)


def _bound(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Yield each name that statements of a module bind, with its statement.

    "*" stands for names that cannot be known, as where a statement uses `globals`.
    """
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0], node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for name in ast.walk(node):
                if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                    yield name.id, node
        else:  # if, try, with, a loop, or a call that may bind anything
            for part in ("body", "orelse", "finalbody"):
                yield from _bound(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _bound(handler.body)
            if any(isinstance(one, ast.Name) and one.id == "globals" for one in ast.walk(node)):
                yield "*", node


def _required(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Return the parameters that have no default and that not every reward function is given."""
    given = function.args
    positional = [one.arg for one in (*given.posonlyargs, *given.args)]
    required = positional[: len(positional) - len(given.defaults)]
    required += [
        one.arg
        for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
        if default is None
    ]
    return [name for name in required if name not in _GIVEN]
