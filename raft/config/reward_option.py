"""From `--reward M` to the settings that `rewards.build_reward` takes.

M is a model folder or a hub name, `function:NAME`, a YAML file with a `reward:` section or a bare
mapping, or such a mapping itself, in braces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from raft.assemble import check_model, reward_arguments
from raft.config.paths import expand_paths
from raft.config.run import RewardConfig
from rollout.errors import InputError

__all__ = ["read_spec", "split_tournament"]

_FUNCTION = "function:"


# how a reward of kind pairwise calls what `rewards.scoring.rank.Tournament` holds
_TOURNAMENT = {"tournament": "method"} | {
    key: key for key in ("score", "rounds", "budget", "tie", "seed")
}


def read_spec(
    given: str,
    options: Mapping[str, Any],
    assignments: Sequence[str] = (),
    *,
    sections: Sequence[str] = ("reward",),
    kind: str = "model",
) -> dict[str, Any]:
    """The settings, `kind` among them: what M says, then `options` that are given, then key=value.

    `kind` is that of a model named by its folder; `sections` are those that a YAML file may hold
    the settings in, the first also being the option's name.

    Raises InputError: no such file or folder, no YAML, no such section, an assignment without "=",
    or settings that no reward has.
    """
    option = f"--{sections[0]}"
    spec = _named(given, option, sections, kind)
    for key, value in options.items():
        if value is not None and not _give(spec, key, value):
            raise InputError(
                f"--{key.replace('_', '-')}",
                f"nothing in {option} {given} has that setting",
                "leave it out",
            )
    for assignment in assignments:
        _assign(spec, assignment)
    if "kind" not in spec:
        raise InputError(
            f"{option} {given}",
            "says no kind",
            "add kind: model, function or another",
        )
    device = spec.pop("device", None)  # a run places its workers itself: its config has none
    section = _section(expand_paths(spec, option), f"{option} {given}")
    for part in section.everything():
        if part.kind in ("model", "pairwise"):
            check_model(part.model or "", option)
    return reward_arguments(section) | ({} if device is None else {"device": device})


def _give(spec: dict[str, Any], key: str, value: Any) -> bool:
    """Set it where it belongs: in the reward itself, or in the members of a combination."""
    from rewards.build import KINDS, takes

    kind = spec.get("kind")
    if kind == "combine" and not takes(kind, key):
        members = spec.get("members")
        parts = members if isinstance(members, list) else []
        # every member that has it gets it
        taken = [_give(part, key, value) for part in parts if isinstance(part, dict)]
        return any(taken)
    if kind in KINDS and not takes(kind, key):
        return False
    spec[key] = value
    return True


def split_tournament(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the judge's settings, those of the tournament beside them) of a reward of kind pairwise."""
    own = {key: value for key, value in settings.items() if key not in _TOURNAMENT}
    tournament = {_TOURNAMENT[key]: settings[key] for key in settings if key in _TOURNAMENT}
    return own, tournament


def _named(given: str, option: str, sections: Sequence[str], kind: str) -> dict[str, Any]:
    if given.startswith(_FUNCTION):
        return {"kind": "function", "function": given.removeprefix(_FUNCTION)}
    if given.lstrip().startswith("{"):
        return _mapping(given, option, sections)
    path = Path(given).expanduser()
    if path.suffix in (".yaml", ".yml") or path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise InputError(f"{option} {given}", "no such file", "check the path") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{option} {given}", f"cannot be read ({error})", "give YAML"
            ) from error
        return _mapping(text, f"{option} {given}", sections)
    return {"kind": kind, "model": str(path.resolve()) if path.is_dir() else given}


def _mapping(text: str, where: str, sections: Sequence[str]) -> dict[str, Any]:
    found = _yaml(text, where)
    if isinstance(found, dict):
        found = next((found[one] for one in sections if isinstance(found.get(one), dict)), found)
    if not isinstance(found, dict) or not found:
        raise InputError(
            where,
            "holds no settings",
            f"write a {sections[0]}: section, or its keys alone",
        )
    return found


def _section(spec: dict[str, Any], where: str) -> RewardConfig:
    try:
        return RewardConfig.model_validate(spec)
    except ValidationError as error:
        raise InputError(where, f"{'; '.join(map(_complaint, error.errors()))}") from error


def _complaint(item: Any) -> str:
    key = ".".join(map(str, item["loc"]))
    if item["type"] == "extra_forbidden":
        close = get_close_matches(key, RewardConfig.model_fields, n=1)
        return f"{key}: unknown key" + (f"; did you mean {close[0]}?" if close else "")
    message = item["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def _assign(spec: dict[str, Any], assignment: str) -> None:
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise InputError(
            f"--set {assignment}", "has no =", "write key=value, for example arguments.unit=chars"
        )
    *parents, last = key.split(".")
    for parent in parents:
        child = spec.setdefault(parent, {})
        if not isinstance(child, dict):
            raise InputError(
                f"--set {assignment}",
                f"{parent} is no section",
                "name a key of its own",
            )
        spec = child
    spec[last] = _yaml(text, f"--set {key}")


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(where, f"not valid YAML: {' '.join(str(error).split())}") from error
