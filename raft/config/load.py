"""Reading a config: defaults < YAML file < `key=value` overrides; every mistake in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from raft.config.paths import expand_paths
from raft.config.run import RewardConfig, RunConfig
from rollout.errors import InputError

__all__ = [
    "RewardConfig",
    "RunConfig",
    "apply_override",
    "describe_keys",
    "is_training",
    "known_keys",
    "load_config",
    "make_config",
    "read_mapping",
    "validated",
]

_Schema = TypeVar("_Schema", bound=BaseModel)


def load_config(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a YAML file and apply `key.sub=value` overrides (values are YAML).

    Raises:
        InputError: the file is missing or no YAML, a key is unknown, a value is out of range, or
            keys contradict each other; one line that names the key and the file.
    """
    data = read_mapping(path, overrides, examples="configs/")
    if is_training(data):
        raise InputError(path, f"trains a reward model, and is no run: raft train-reward {path}")
    return make_config(data, where=str(path))


def make_config(data: dict[str, Any], where: str = "config") -> RunConfig:
    """Validate a mapping; `where` names it in messages."""
    return validated(RunConfig, data, where, see="raft validate --keys")


def validated(schema: type[_Schema], data: dict[str, Any], where: str, *, see: str) -> _Schema:
    """The mapping as its schema has it, paths filled in; `see` is the command that lists its keys.

    Raises:
        InputError: every complaint as `key: what (got value)` in one line; the likely key for a
            typo.
    """
    try:
        return schema.model_validate(expand_paths(data, where))
    except ValidationError as error:
        complaints = (_complaint(item, schema, see) for item in error.errors())
        raise InputError(where, f"{'; '.join(complaints)}") from error


def is_training(data: dict[str, Any]) -> bool:
    """Whether a mapping is for `raft train-reward` and not for `raft run`."""
    return (
        bool({"recipe", "model", "data"} & data.keys()) and not {"policy", "prompts"} & data.keys()
    )


def read_mapping(path: str | Path, overrides: list[str] | None, *, examples: str) -> dict[str, Any]:
    """What a YAML file says, overrides applied; `examples` is where a lost user finds some.

    Raises:
        InputError: no such file, no YAML, no mapping, or an override that is none.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(path, "no such config file", f"{examples} holds examples")
    try:
        data = yaml.safe_load(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a 13th month
        raise InputError(path, f"not valid YAML: {' '.join(str(error).split())}") from error
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise InputError(path, f"a config is a mapping of keys, not {type(data).__name__}")
    for override in overrides or []:
        apply_override(data, override)
    return data


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set `key.sub=value` in a nested mapping; the value is YAML. Raises InputError."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(
            f"override {override!r}", "has no =", "write key=value, for example sampling.k=16"
        )
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"override {override!r}", "the value is no YAML") from error
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        value = float(value)  # YAML 1.1 reads 3e-4 as a word
    *parents, last = key.split(".")
    for parent in parents:
        if data.get(parent) is None:  # a section named in the file and left empty
            data[parent] = {}
        child = data[parent]
        if not isinstance(child, dict):
            raise InputError(f"override {override!r}", f"{parent} is no section")
        data = child
    data[last] = value


def _complaint(item: Any, schema: type[BaseModel], see: str) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key{_suggestion(key, schema, see)}"
    if item["type"] == "missing":
        return f"{key}: missing"
    message = item["msg"].removeprefix("Value error, ")
    if not key:  # about keys that contradict each other: the message names them
        return message
    plain = isinstance(item["input"], str | int | float | bool | None)
    return f"{key}: {message} (got {item['input']!r})" if plain else f"{key}: {message}"


def _suggestion(key: str, schema: type[BaseModel], see: str) -> str:
    import difflib

    close = difflib.get_close_matches(key, known_keys(schema), n=1)
    return f"; did you mean {close[0]}?" if close else f"; see `{see}`"


def known_keys(section: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Every key of a run's config in dotted form."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        child = _section_of(field.annotation)
        if child is not None:
            keys += known_keys(child, f"{prefix}{name}.")
    return keys


def describe_keys(section: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """One line per key: name, default, meaning."""
    lines: list[str] = []
    for name, field in section.model_fields.items():
        child = _section_of(field.annotation)
        if child is not None:
            lines += describe_keys(child, f"{prefix}{name}.")
            continue
        default = "required" if field.is_required() else f"default {field.default!r}"
        note = f"  {field.description}" if field.description else ""
        lines.append(f"{prefix}{name}  ({default}){note}")
    return lines


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if get_origin(annotation) is list:  # of sections that hold such lists themselves
        return None
    options = getattr(annotation, "__args__", ()) or (annotation,)
    for option in options:
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None
