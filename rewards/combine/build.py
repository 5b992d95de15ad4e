"""Build a `CombinedReward` from a spec; a function of the caller's builds each member."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypedDict

from rewards.combine.debias import Debias, build_debias
from rewards.combine.length import LengthPenalty, build_length_penalty
from rewards.combine.normalise import Normaliser, build_normaliser
from rewards.combine.reward import CombinedReward
from rewards.spec import CombineSpec, MemberSpec, RewardSpec
from rewards.types import Reward, Scores
from rollout.types import Group, InputError

__all__ = ["build_combined"]

log = logging.getLogger("rewards")


class _Settings(TypedDict):
    """Keywords of `CombinedReward`."""

    weights: list[float]
    normalise: list[Normaliser]
    names: list[str]
    reduce: str
    std_weight: float | None
    length_penalty: LengthPenalty | None
    debias: Debias | None


def build_combined(spec: CombineSpec, build: Callable[[RewardSpec], Reward]) -> CombinedReward:
    """Build a combination; `build` makes each member's reward.

    Raises `InputError`, beginning with the key in the settings, for settings that do not fit.
    """
    members = spec.members
    # cheap checks first: a model may take minutes to load
    settings = _Settings(
        weights=[1.0 if member.weight is None else member.weight for member in members],
        normalise=[
            build_normaliser(member.normalise, f"members[{index}].normalise")
            for index, member in enumerate(members)
        ],
        names=_names(members),
        reduce=spec.reduce or "sum",
        std_weight=spec.std_weight,
        length_penalty=build_length_penalty(spec.length_penalty, "length_penalty"),
        debias=build_debias(spec.debias, "debias"),
    )
    _say_what_is_relative(CombinedReward([_Unbuilt()] * len(members), **settings))
    return CombinedReward([_build(build, m, i) for i, m in enumerate(members)], **settings)


def _build(build: Callable[[RewardSpec], Reward], member: MemberSpec, index: int) -> Reward:
    try:
        return build(member.reward)
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


def _names(members: Sequence[MemberSpec]) -> list[str]:
    """Return the members' own names, or else their function, model or kind.

    Of these, equal ones are told apart by their index.
    """
    defaults = [member.reward.label for member in members]
    return [
        member.name or (name if defaults.count(name) == 1 else f"{name} [{index}]")
        for index, (member, name) in enumerate(zip(members, defaults, strict=True))
    ]


class _Unbuilt:
    """Stands for a member while the other settings are checked."""

    def score_groups(self, groups: Sequence[Group]) -> Scores:
        raise AssertionError("a member was asked for scores before it was built")
