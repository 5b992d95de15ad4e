"""Parse `key=value` settings from command lines, and YAML, in which their values are written."""

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
# limits on the nesting and, with aliases expanded, on the number of values; no config needs a tenth
_DEEPEST = 100
_MOST_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """A safe YAML loader that refuses repeated keys, deep nesting and large expanded aliases."""

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
            # `<<` merges another mapping, whose keys may be repeated
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
    """Return the value of a YAML text.

    Raises `InputError`, one line that begins with `where`, for text that is no YAML, a repeated
    key, an alias within its own anchor, aliases that expand too far, and too deep nesting.
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
    """Parse `key=value` into (key, value); the value is YAML, or a number such as 3e-4.

    `where` is the option that gave the text, `example` a correct text for the error. Raises
    `InputError` for text without `=` or a key, and for a value that is no YAML.
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

    Raises `InputError` as `parse_override` does, where a part of the key leads into a value that is
    no mapping and no list, and where a part is no index of a list.
    """
    key, value = parse_override(text, where, example)
    place, before = f"{where} {text.strip()}", ""
    section: object = data
    *parents, last = key.split(".")
    for part in parents:
        if is_object(section) and section.get(part) is None:
            section[part] = {}  # missing, or named in the file without a value
        section = _held(section, part, before, place)
        before = part
    if is_object(section):
        section[last] = value
    else:
        _held(section, last, before, place)
        cast(list[object], section)[int(last)] = value


def _held(section: object, part: str, name: str, place: str) -> object:
    """Return the value at `part` of a mapping or list called `name`.

    Raises InputError where `section` is neither, or a list without the index `part`.
    """
    if is_object(section):
        return section[part]
    if not is_list(section):
        raise InputError(place, f"{name} is no section", f"set {name} as a whole")
    if not (part.isdecimal() and int(part) < len(section)):
        fix = f"use 0 to {len(section) - 1}" if section else f"set {name} as a whole"
        raise InputError(place, f"{part!r} is no entry of the list {name}", fix)
    return section[int(part)]
