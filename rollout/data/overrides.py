"""`key=value` settings, as command lines give them, and the YAML that their values are."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any, cast

import yaml

from rollout.data.jsonl import is_list, is_object
from rollout.errors import InputError
from rollout.text.printable import one_line

__all__ = ["apply_override", "parse_override", "parse_yaml"]

# YAML 1.1 reads 3e-4, without a point, as a word
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
# levels of a value, and values in all where aliases repeat some: no config needs a tenth of these
_DEEPEST = 100
_MOST_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """YAML for settings: no key twice, and no more, by aliases or by depth, than can be meant."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = 0
        self._held: dict[int, int] = {}  # node -> values in it
        self._open: list[str] = []  # anchors of the nodes that are being read

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event, before = _event(self), self._values
        anchor = event.anchor if isinstance(event, yaml.NodeEvent) else None
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _refused("nested too deeply", event)
        if not isinstance(event, yaml.AliasEvent):
            self._values += 1
            self._open.append(anchor or "")
            node = super().compose_node(parent, index)
            self._open.pop()
            self._held[id(node)] = self._values - before
        else:
            if anchor in self._open:
                raise _refused(f"*{anchor} stands within itself", event)
            self._values += self._held.get(id(self.anchors.get(anchor)), 0)
            if self._values > _MOST_VALUES:
                raise _refused("aliases repeat too many values", event)
            node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key, _ in cast(list[tuple[yaml.Node, yaml.Node]], node.value):
            # `<<` takes in another mapping, whose keys may be said again
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                name: object = cast(Any, self).construct_object(key)
                if name in seen:
                    raise _refused(f"the key {name!r} stands twice", key)
                seen.add(name)
        return super().construct_mapping(node, deep)


def _event(loader: yaml.SafeLoader) -> yaml.Event:
    return cast(Any, loader).peek_event()  # the stubs of PyYAML do not say


def _refused(problem: str, at: yaml.Event | yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, problem, cast(Any, at).start_mark)


def parse_yaml(text: str, where: str) -> object:
    """The value of a YAML text.

    Raises `InputError`, one line that begins with `where`: no YAML, a key that stands twice,
    aliases that do not end or repeat too much, values nested too deeply.
    """
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark is not None and "\n" in text else ""
        told = ", ".join(one_line(one) for one in (error.context, error.problem) if one)
        raise InputError(f"{where}{line}", f"not valid YAML: {told}", "fix it") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a 13th month, say
        raise InputError(where, f"not valid YAML: {one_line(error)}") from error


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
    """Set `key.sub=value` in a nested mapping; `list.0.sub` is in the first entry of a list.

    Raises `InputError` as `parse_override` does, and where a part of the key but the last names no
    mapping, or none of the entries of a list.
    """
    key, value = parse_override(text, where, example)
    place, before = f"{where} {text.strip()}", ""
    section: object = data
    *parents, last = key.split(".")
    for part in parents:
        if is_object(section) and section.get(part) is None:
            section[part] = {}  # named in the file and left empty
        section = _held(section, part, before, place)
        before = part
    if is_object(section):
        section[last] = value
    else:
        _held(section, last, before, place)
        cast(list[object], section)[int(last)] = value


def _held(section: object, part: str, name: str, place: str) -> object:
    """What a mapping or a list called `name` holds at `part`. Raises InputError."""
    if is_object(section):
        return section[part]
    if not is_list(section):
        raise InputError(place, f"{name} is no section", f"set {name} as a whole")
    if not (part.isdecimal() and int(part) < len(section)):
        fix = f"use 0 to {len(section) - 1}" if section else f"set {name} as a whole"
        raise InputError(place, f"{part!r} is no entry of the list {name}", fix)
    return section[int(part)]
