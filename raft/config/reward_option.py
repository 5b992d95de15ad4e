"""Turn the argument M of `--reward M` and `--judge M` into the spec of a reward.

M is a model folder, a hub name, `function:NAME`, a YAML file that holds a `reward:` section or the
settings alone, or the settings in braces (YAML); from Python also a mapping of settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from raft.config.paths import expand_paths
from rewards.build import as_judge
from rewards.functions import BUILTINS
from rewards.spec import JudgeSpec, PairwiseSpec, RemoteSpec, RewardSpec
from rewards.spec_reader import read_reward, takes
from rewards.tournament.types import Tournament
from rollout.data.overrides import apply_override, parse_yaml
from rollout.errors import InputError

__all__ = ["JUDGE_SECTIONS", "as_judge_and_rules", "read_spec"]

# sections of a YAML file that a judge is read from: the first of these that the file has
JUDGE_SECTIONS = ("judge", "reward")

_FUNCTION = "function:"
_OWN_FUNCTION = re.compile(r"[\w./-]+:\w+")
_EXAMPLE = "arguments.unit=chars"


def read_spec(
    given: str | Mapping[str, object],
    options: Mapping[str, object],
    assignments: Sequence[str] = (),
    *,
    sections: Sequence[str] = ("reward",),
    kind: str = "model",
) -> RewardSpec:
    """Return the spec that `given` (M) names, changed by `options` and then by `assignments`.

    `options` that are None change nothing; `assignments` are `key.sub=value`. `kind` is the kind of
    a reward named by a model folder or hub name; `sections` are those that a YAML file may hold the
    settings in, the first also being the option's name. Paths are made absolute.

    Raises InputError: no such file or folder, no YAML, no such section, an assignment without "=",
    settings that no reward has, or a function that there is not.
    """
    from raft.runs.check import check_reward

    option = f"--{sections[0]}"
    if isinstance(given, Mapping):
        settings, name = dict(given), option
    else:
        settings, name = _named(given, option, sections, kind), f"{option} {given}"
        if settings.get("model") == given:
            _check_name(given, name, option)
    for key, value in options.items():
        if value is not None and not _give(settings, key, value):
            raise InputError(
                f"--{key.replace('_', '-')}",
                f"nothing in {name} has that setting",
                "leave it out",
            )
    for assignment in assignments:
        apply_override(settings, assignment, "--set", _EXAMPLE)
    if "kind" not in settings:
        raise InputError(
            name,
            "says no kind",
            "add kind: model, function or another",
        )
    spec = read_reward(expand_paths(settings, option), name)
    spec.check_models(option)
    check_reward(option, spec, hub=False)
    if any(isinstance(part, RemoteSpec) and part.token is not None for part in spec.parts()):
        raise InputError(option, "a token would be seen by others", "use token_env")
    return spec.absolute()


def as_judge_and_rules(spec: RewardSpec) -> tuple[JudgeSpec, Tournament]:
    """Return the judge, and the tournament that its settings describe (default: `Tournament()`).

    Raises InputError as `as_judge` does.
    """
    return as_judge(spec), spec.rules() if isinstance(spec, PairwiseSpec) else Tournament()


def _give(settings: dict[str, object], key: str, value: object) -> bool:
    """Set `key` in the settings of a reward, or of each member of a combination that takes it.

    Return whether any of them takes the key.
    """
    kind = settings.get("kind")
    if kind != "combine" or takes(kind, key):
        known = isinstance(kind, str) and takes(kind, "kind")
        if known and not takes(kind, key):
            return False
        settings[key] = value
        return True
    members = settings.get("members")
    parts = members if isinstance(members, list) else []
    # a list, not a generator: every member that takes the key gets it
    taken = [_give(part, key, value) for part in parts if isinstance(part, dict)]
    return any(taken)


def _check_name(given: str, where: str, option: str) -> None:
    """Check that `given`, which is no folder, may be a hub name: owner/name.

    Raises InputError, whose fix names a function that may be meant.
    """
    if "/" in given and ".py:" not in given:
        return
    close = get_close_matches(given, BUILTINS, n=1)
    meant = given if _OWN_FUNCTION.fullmatch(given) else next(iter(close), "NAME")
    fix = "give a folder or a hub name (owner/name)"
    if option == "--reward":
        known = ", ".join(sorted(BUILTINS))
        fix = f"for a function say --reward function:{meant} ({known}, or yours)"
    raise InputError(where, "is no model folder, no name of the hub and no file", fix)


def _named(given: str, option: str, sections: Sequence[str], kind: str) -> dict[str, object]:
    if given.startswith(_FUNCTION):
        return {"kind": "function", "function": given.removeprefix(_FUNCTION)}
    if given.lstrip().startswith("{"):
        return _mapping(given, option, sections)
    if not given:
        raise InputError(f"{option} ''", "is empty", "give a model or a function")
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


def _mapping(text: str, where: str, sections: Sequence[str]) -> dict[str, object]:
    found = parse_yaml(text, where)
    if isinstance(found, dict):
        found = next((found[one] for one in sections if isinstance(found.get(one), dict)), found)
    if not isinstance(found, dict) or not found:
        raise InputError(
            where,
            "holds no settings",
            f"write a {sections[0]}: section, or its keys alone",
        )
    return found
