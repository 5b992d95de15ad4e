"""From plain settings to a `CombinedReward`. What one member is, the caller's `build` knows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rewards.combine.debias import build_debias
from rewards.combine.length import build_length_penalty
from rewards.combine.normalise import build_normaliser
from rewards.combine.reward import CombinedReward
from rewards.types import Reward
from rollout.types import InputError

__all__ = ["build_combined"]

log = logging.getLogger("rewards")


def build_combined(
    *,
    build: Callable[[Mapping[str, Any]], Reward],
    members: Sequence[Mapping[str, Any]],
    reduce: str = "sum",
    std_weight: float | None = None,
    length_penalty: Mapping[str, Any] | None = None,
    debias: Mapping[str, Any] | None = None,
) -> CombinedReward:
    """Build a combination.

    Args:
        build: turns one member's mapping, without `weight`, `normalise` and `name`, into a reward.
        members: {"kind", …, "weight"?, "normalise"?, "name"?} each; `name` defaults to the
            member's function, model or kind.
        reduce, std_weight: as `CombinedReward` takes them.
        length_penalty: as `build_length_penalty` takes it.
        debias: as `build_debias` takes it.

    Raises `InputError` that begins with the place in the settings.
    """
    if isinstance(members, str | Mapping) or not isinstance(members, Sequence) or not members:
        raise InputError("members", "must be a list of rewards", "give each its kind")
    for index, member in enumerate(members):
        if not isinstance(member, Mapping):
            raise InputError(
                f"members[{index}]",
                f"{member!r} is no mapping",
                "it needs a kind at least",
            )
    # cheap checks first: a model may take minutes to load
    penalty = build_length_penalty(length_penalty, "length_penalty")
    fitted = build_debias(debias, "debias")
    settings: dict[str, Any] = {
        "weights": [_or(member.get("weight"), 1.0) for member in members],
        "normalise": [
            build_normaliser(member.get("normalise"), f"members[{index}].normalise")
            for index, member in enumerate(members)
        ],
        "names": _names(members),
        "reduce": reduce,
        "std_weight": std_weight,
        "length_penalty": penalty,
        "debias": fitted,
    }
    _say_what_is_relative(CombinedReward([_Unbuilt()] * len(members), **settings))
    return CombinedReward([_build(build, m, i) for i, m in enumerate(members)], **settings)


def _build(
    build: Callable[[Mapping[str, Any]], Reward], member: Mapping[str, Any], index: int
) -> Reward:
    own = ("weight", "normalise", "name")
    try:
        return build({key: value for key, value in member.items() if key not in own})
    except InputError as error:
        raise InputError(f"members[{index}]", error) from error


def _say_what_is_relative(reward: CombinedReward) -> None:
    for member in reward.members:
        if member.normaliser.within_group:
            log.warning(
                "member %r: normalise %s compares the samples of one prompt: its mean is the same "
                "for every policy, so curves of this reward will not show it; a gold reward will",
                *(member.name, member.normaliser.name),
            )


def _names(members: Sequence[Mapping[str, Any]]) -> list[str]:
    defaults = [str(m.get("function") or m.get("model") or m.get("kind")) for m in members]
    return [
        str(member.get("name") or (name if defaults.count(name) == 1 else f"{name} [{index}]"))
        for index, (member, name) in enumerate(zip(members, defaults, strict=True))
    ]


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


class _Unbuilt:
    """Stands for a member while the other settings are checked."""

    def score_groups(self, groups: Any) -> Any:
        raise AssertionError("a member was asked for scores before it was built")
