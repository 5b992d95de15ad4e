"""Read a config: defaults, then a YAML file, then `key=value` overrides.

Every mistake is reported in one line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from raft.config.paths import expand_paths
from raft.config.run import RunConfig
from rewards.spec_reader import complaints
from rollout.data.overrides import apply_override, parse_yaml
from rollout.errors import InputError

__all__ = [
    "RunConfig",
    "describe_keys",
    "is_training",
    "known_keys",
    "load_config",
    "make_config",
    "place",
    "read_mapping",
    "validated",
]

_Schema = TypeVar("_Schema", bound=BaseModel)


def load_config(
    source: str | Path | Mapping[str, object], overrides: Sequence[str] = ()
) -> RunConfig:
    """Read a YAML file, or its keys as a mapping, and apply `key.sub=value` overrides (YAML).

    Raises:
        InputError: the file is missing or no YAML, a key is unknown, a value is out of range, or
            keys contradict each other; one line that names the key and the file.
    """
    where, data = place(source), read_mapping(source, overrides, examples="configs/")
    if is_training(data):
        raise InputError(
            where, "is a config of raft train-reward", f"run raft train-reward {where}"
        )
    return make_config(data, where)


def make_config(data: Mapping[str, object], where: str = "config") -> RunConfig:
    """Validate a mapping of keys; `where` names it in messages. Raises InputError."""
    return validated(RunConfig, data, where, see="raft validate --keys")


def validated(
    schema: type[_Schema], data: Mapping[str, object], where: str, *, see: str
) -> _Schema:
    """Return a mapping as an object of `schema`, environment variables in its strings filled in.

    `see` is the command that lists the schema's keys, for messages.

    Raises:
        InputError: all mistakes in one line, each as `key: what is wrong`; of a key with a typo
            the likely one is named.
    """
    try:
        return schema.model_validate(expand_paths(data, where))
    except ValidationError as error:
        told = (_complaint(key, text, schema, see) for key, text in complaints(error))
        raise InputError(where, "; ".join(told)) from error


def is_training(data: Mapping[str, object]) -> bool:
    """Return whether a mapping is a config of `raft train-reward` and not of `raft run`."""
    return (
        bool({"recipe", "model", "data"} & data.keys()) and not {"policy", "prompts"} & data.keys()
    )


def read_mapping(
    source: str | Path | Mapping[str, object], overrides: Sequence[str], *, examples: str
) -> dict[str, object]:
    """Return the keys of a YAML file, or a copy of a mapping, with the overrides applied.

    `examples` names a folder of example configs, for the error about a missing file.

    Raises:
        InputError: a missing file, no YAML, no mapping, or an override that is not `key=value`.
    """
    if isinstance(source, Mapping):
        data = deepcopy(dict(source))
    else:
        data = _read_yaml(Path(source), examples)
    for override in overrides:
        apply_override(data, override, "override", "sampling.k=16")
    return data


def place(source: str | Path | Mapping[str, object]) -> str:
    """Return the name of a config in messages: its path, or "config" for a mapping."""
    return "config" if isinstance(source, Mapping) else str(source)


def _read_yaml(path: Path, examples: str) -> dict[str, object]:
    if not path.is_file():
        raise InputError(path, "no such config file", f"see {examples} for examples")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(path, f"not valid YAML: {' '.join(str(error).split())}") from error
    data = parse_yaml(text, str(path))
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise InputError(path, f"a config is a mapping of keys, not {type(data).__name__}")
    return data


def _complaint(key: str, text: str, schema: type[BaseModel], see: str) -> str:
    if text == "unknown key":
        return f"{key}: unknown key{_suggestion(key, schema, see)}"
    # a complaint without a key is about keys that contradict each other, and names them itself
    return f"{key}: {text}" if key else text


def _suggestion(key: str, schema: type[BaseModel], see: str) -> str:
    import difflib

    close = difflib.get_close_matches(key, known_keys(schema), n=1)
    if close == [key]:
        return "; another kind has it"
    return f"; did you mean {close[0]}?" if close else f"; see `{see}`"


def known_keys(section: type[object] = RunConfig, prefix: str = "") -> list[str]:
    """Return every key of a config's schema in dotted form, without keys that are old names."""
    keys: dict[str, None] = {}
    for name, field in _fields(section).items():
        keys[prefix + name] = None
        for child in _sections_of(field.annotation):
            keys |= dict.fromkeys(known_keys(child, f"{prefix}{name}."))
    return list(keys)


def describe_keys(section: type[object] = RunConfig, prefix: str = "") -> list[str]:
    """Return one line per key of a schema: name, default, choices and meaning.

    For a section that has several kinds, such as a reward, a line names the kinds with the key.
    """
    lines: list[str] = []
    for name, field in _fields(section).items():
        children = _sections_of(field.annotation)
        if len(children) > 1:
            lines += _describe_union(children, f"{prefix}{name}.", field)
        elif children:
            lines += describe_keys(children[0], f"{prefix}{name}.")
        else:
            lines.append(prefix + _describe(name, field))
    return lines


def _describe_union(kinds: list[type[object]], prefix: str, union: FieldInfo) -> list[str]:
    """Return one line per key of a section of several kinds; equal lines of kinds are merged."""
    found: dict[str, list[str]] = {}
    names = [_fields(kind)["kind"].default for kind in kinds]
    for of, kind in zip(names, kinds, strict=True):
        for name, field in _fields(kind).items():
            if name != "kind":
                found.setdefault(_describe(name, field), []).append(of)
    default = getattr(union.get_default(), "kind", None)
    told = f"default {default!r}" if default else "required"
    lines = [f"{prefix}kind  ({told})  {', '.join(names)}"]
    return lines + [f"{prefix}{text}  [{', '.join(of)}]" for text, of in sorted(found.items())]


def _describe(name: str, field: FieldInfo) -> str:
    default: object = None if field.is_required() else field.get_default(call_default_factory=True)
    default = list(default) if isinstance(default, tuple) else default
    told = "unset" if default is None else f"default {default!r}"
    told = "required" if field.is_required() else told
    choices = "|".join(_choices(field.annotation))
    return "  ".join(filter(None, (name, f"({told})", choices, field.description)))


def _choices(annotation: object) -> list[str]:
    if get_origin(annotation) is Literal:
        return list(map(str, get_args(annotation)))
    if get_origin(annotation) in (list, tuple, dict):
        return []
    return [choice for option in get_args(annotation) for choice in _choices(option)]


def _fields(section: type[object]) -> dict[str, FieldInfo]:
    """Return the keys of a pydantic model or dataclass, without keys that are old names."""
    fields: dict[str, FieldInfo] = vars(section)["__pydantic_fields__"]
    hidden = {"hidden": True}
    return {name: one for name, one in fields.items() if one.json_schema_extra != hidden}


def _sections_of(annotation: object) -> list[type[object]]:
    """Return the schemas of the sections that a key may hold: several for a union.

    Lists and mappings of sections are not looked into.
    """
    if isinstance(annotation, type) and hasattr(annotation, "__pydantic_fields__"):
        return [annotation]
    if get_origin(annotation) in (list, tuple, dict):
        return []
    return [section for option in get_args(annotation) for section in _sections_of(option)]
