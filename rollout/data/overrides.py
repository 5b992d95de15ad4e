"""`key=value` settings, as command lines give them, and the YAML that their values are."""

from __future__ import annotations

import re

import yaml

from rollout.data.jsonl import is_object
from rollout.errors import InputError

__all__ = ["apply_override", "parse_override", "parse_yaml"]

# YAML 1.1 reads 3e-4, without a point, as a word
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def parse_yaml(text: str, where: str) -> object:
    """The value of a YAML text. Raises `InputError`, one line that begins with `where`."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a 13th month, say
        raise InputError(where, f"not valid YAML: {' '.join(str(error).split())}") from error


def parse_override(text: str, where: str, example: str) -> tuple[str, object]:
    """`key=value` as (key, value); the value is YAML.

    `where` is the option that was given, `example` one that is right. Raises `InputError`.
    """
    key, equals, word = text.strip().partition("=")
    if not equals or not key:
        raise InputError(
            where, f"{text.strip()!r} is no key=value", f"write key=value, for example {example}"
        )
    value = parse_yaml(word, f"{where} {key}")
    return key, float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def apply_override(data: dict[str, object], text: str, where: str, example: str) -> None:
    """Set `key.sub=value` in a nested mapping. Raises `InputError` as `parse_override` does, and
    where a part of the key but the last names no mapping."""
    key, value = parse_override(text, where, example)
    *parents, last = key.split(".")
    section = data
    for parent in parents:
        if section.get(parent) is None:  # a section named in the file and left empty
            section[parent] = {}
        child = section[parent]
        if not is_object(child):
            raise InputError(f"{where} {text.strip()}", f"{parent} is no section")
        section = child
    section[last] = value
