"""`CombinedReward`: several rewards as one.

    score = reduce_m(weight_m · normalise_m(raw_m)) − length penalty − verbosity debiasing

The last two do not depend on the reduced score: their order changes nothing.
"""

from __future__ import annotations

import functools
import math
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np

from rewards.combine.checks import finite_number, one_of
from rewards.combine.debias import Debias
from rewards.combine.length import LengthPenalty, response_length
from rewards.combine.member import Member
from rewards.combine.normalise import Normaliser, build_normaliser
from rewards.combine.reduce import REDUCTIONS, Reduction, reduce_scores
from rewards.encoding.formats import name_conversations
from rewards.types import Reward, RewardError, Scores
from rollout.data.messages import checked_conversation, split_response
from rollout.types import Completion, Group, InputError, Message

__all__ = ["CombinedReward"]

NormaliserSpec = str | Mapping[str, object] | Normaliser | None


class CombinedReward:
    """Scores groups with every member in turn and combines what they say.

    Args:
        members: M rewards.
        weights: (M,) factors, finite and not zero, of either sign; default 1. They are applied
            before any reduction: "mean" is the mean of weighted scores, not a weighted mean.
        normalise: (M,) what `build_normaliser` understands; default "none".
        reduce: "sum", "mean", "min" or "mean_minus_std" (see `reduce_scores`).
        std_weight: the λ of mean_minus_std, 0 or more; default 1.
        length_penalty: subtracted from the reduced score.
        debias: subtracted from the reduced score. A member that it names measures verbosity and is
            no term of the combination: it has no weight and no normaliser.
        names: (M,) for messages; default: the members' own names.

    A sample that any member does not score has no combined score. Raises `InputError` for settings
    that contradict each other.
    """

    def __init__(
        self,
        members: Sequence[Reward],
        *,
        weights: Sequence[float] | None = None,
        normalise: Sequence[NormaliserSpec] | None = None,
        reduce: str = "sum",
        std_weight: float | None = None,
        length_penalty: LengthPenalty | None = None,
        debias: Debias | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.members = _members(members, weights, normalise, names)
        self.reduce: Reduction = cast(Reduction, one_of(reduce, "reduce", REDUCTIONS))
        self.length_penalty = length_penalty
        self.debias = debias
        self._measure = _measure(self.members, debias)
        self._terms = [member for member in self.members if member is not self._measure]
        self.std_weight = _std_weight(std_weight, self.reduce, len(self._terms))

    def score_groups(self, groups: Sequence[Group]) -> Scores:
        """Return one list of K combined scores per group, in order; members run one by one.

        Raises `RewardError` where a member fails, or the combination is beyond a float.
        """
        raw = {member.name: member.score_groups(groups) for member in self.members}
        return [
            self._combine(
                {name: scores[p] for name, scores in raw.items()},
                group.completions,
                [f"prompt {group.prompt.id!r}"] * len(group.completions),
            )
            for p, group in enumerate(groups)
        ]

    def score(self, conversations: Sequence[str | Sequence[Message]]) -> np.ndarray:
        """Return the scores of N conversations, float32 (N,), NaN where a score is missing.

        Plain texts will do where no length is needed. Raises as `score_groups` does, and
        `InputError` where a member scores groups only, or a normaliser needs the other samples of
        a prompt.
        """
        places = name_conversations(conversations)
        raw = {member.name: member.score(conversations) for member in self.members}
        responses = [self._response(turns) for turns in conversations]
        combined = self._combine(raw, responses, places)
        scores_N = np.array([math.nan if one is None else one for one in combined])
        if (np.abs(scores_N) > np.finfo(np.float32).max).any():
            raise RewardError("a combined reward is beyond float32: lower the weights")
        return scores_N.astype(np.float32)

    def to(self, device: str) -> None:
        """Move every member that can be moved."""
        for member in self.members:
            move = getattr(member.reward, "to", None)
            if move is not None:
                move(device)

    def take_report(self) -> Any:
        """Return the sum of the reports of the judges among the members since the last call.

        Return None where no member reports.
        """
        takes = [getattr(member.reward, "take_report", None) for member in self.members]
        reports = [take() for take in takes if take is not None]
        found = [report for report in reports if report is not None]
        return functools.reduce(operator.add, found) if found else None

    def comparisons(self) -> dict[str, list[list[int | float]]]:
        """Return what the one judge among the members compared, as `JudgeReward.comparisons` does.

        Return {} where none or several did: theirs would look like those of one judge.
        """
        asked = [getattr(member.reward, "comparisons", None) for member in self.members]
        found = [made for ask in asked if ask is not None and (made := ask())]
        return found[0] if len(found) == 1 else {}

    def describe(self) -> dict[str, object]:
        """Return the settings that a score depends on, fitted constants among them."""
        return {
            "kind": "combine",
            "reduce": self.reduce,
            **({"std_weight": self.std_weight} if self.reduce == "mean_minus_std" else {}),
            "length_penalty": asdict(self.length_penalty) if self.length_penalty else None,
            "debias": asdict(self.debias) if self.debias else None,
            "members": [member.describe() for member in self.members],
        }

    def _combine(
        self,
        raw: Mapping[str, Sequence[float | None]],
        completions_K: Sequence[Completion],
        where_K: Sequence[str],
    ) -> list[float | None]:
        """Combine every member's raw scores (K,) of one prompt's samples to scores (K,).

        A sample of which one is missing has no score, None.
        """
        where = where_K[0] if where_K else "no sample"
        terms_MK = [member.weighted(raw[member.name], where) for member in self._terms]
        measure_K = raw[self._measure.name] if self._measure else None
        combined: list[float | None] = []
        for k, completion in enumerate(completions_K):
            values_M = [terms_K[k] for terms_K in terms_MK]
            verbosity = measure_K[k] if measure_K is not None else self._length(completion)
            present_M = [value for value in values_M if value is not None]
            if len(present_M) < len(values_M) or verbosity is None:
                combined.append(None)
                continue
            combined.append(self._one(present_M, completion, verbosity, where_K[k]))
        return combined

    def _one(
        self, values_M: Sequence[float], completion: Completion, verbosity: float, where: str
    ) -> float:
        try:
            score = reduce_scores(values_M, self.reduce, self.std_weight)
        except (OverflowError, ValueError):  # fsum: beyond a float, or infinities of both signs
            score = math.nan
        if self.length_penalty is not None:
            score -= self.length_penalty.amount(completion)
        if self.debias is not None:
            score -= self.debias.amount(verbosity)
        if not math.isfinite(score):
            raise RewardError(
                f"the combined reward for {where} is beyond a float: lower the weights, or "
                "normalise the members"
            )
        return score

    def _response(self, conversation: str | Sequence[Message]) -> Completion:
        """Return the response of a conversation, its last message, whose length is measured.

        Of a plain text return an empty one; raises `InputError` where its length is needed.
        """
        by_length = self.debias is not None and self.debias.member is None
        if isinstance(conversation, str) or not conversation:
            if by_length or self.length_penalty is not None:
                raise InputError(
                    "conversation",
                    "this reward depends on the response's length, and a plain text hides where it "
                    "begins",
                    "give messages whose last one is the response",
                )
            return Completion("", (), "stop")
        turns = checked_conversation(conversation, "conversation")
        return split_response(turns, "conversation", "messages")[1]

    def _length(self, completion: Completion) -> float:
        return 0.0 if self.debias is None else response_length(completion, self.debias.per)


def _members(
    rewards: Sequence[Reward],
    weights: Sequence[float] | None,
    normalise: Sequence[NormaliserSpec] | None,
    names: Sequence[str] | None,
) -> list[Member]:
    if not rewards:
        raise InputError("members", "none given", "a combination needs at least one reward")
    weights = [1.0] * len(rewards) if weights is None else weights
    normalise = [None] * len(rewards) if normalise is None else normalise
    names = _own_names(rewards) if names is None else names
    for what, given in (("weights", weights), ("normalise", normalise), ("names", names)):
        if len(given) != len(rewards):
            raise InputError(
                what, f"has {len(given)} entries for {len(rewards)} members", "give one each"
            )
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError("members", f"{count} are called {name!r}", "give each its own name")
    parts = zip(rewards, weights, normalise, names, strict=True)
    return [_member(*part, f"members[{index}]") for index, part in enumerate(parts)]


def _member(
    reward: Reward, weight: float, normalise: NormaliserSpec, name: str, where: str
) -> Member:
    weight = finite_number(weight, f"{where}.weight")
    if weight == 0:
        raise InputError(
            f"{where}.weight",
            "0 pays for scores that count for nothing",
            "leave it out",
        )
    return Member(reward, name, weight, build_normaliser(normalise, f"{where}.normalise"))


def _own_names(rewards: Sequence[Reward]) -> list[str]:
    own = [str(getattr(one, "name", None) or type(one).__name__) for one in rewards]
    # equal ones are told apart by their place
    return [name if own.count(name) == 1 else f"{name} [{index}]" for index, name in enumerate(own)]


def _measure(members: Sequence[Member], debias: Debias | None) -> Member | None:
    """Return the member whose score is the verbosity, when `debias` names one; else None.

    Raises `InputError` where there is no such member, it is the only one, or it has a weight or a
    normaliser.
    """
    if debias is None or debias.member is None:
        return None
    found = next((member for member in members if member.name == debias.member), None)
    if found is None:
        known = ", ".join(repr(member.name) for member in members)
        raise InputError("debias.member", f"{debias.member!r} is no member", f"there are {known}")
    if len(members) == 1:
        raise InputError("debias.member", "it is the only member", "nothing is left to be debiased")
    if found.weight != 1 or found.normaliser.name != "none":
        raise InputError(
            "debias.member",
            f"{found.name!r} measures verbosity and is no term",
            "give it neither weight nor normalise",
        )
    return found


def _std_weight(std_weight: float | None, reduce: Reduction, terms: int) -> float:
    if reduce != "mean_minus_std":
        if std_weight is not None:
            raise InputError("std_weight", f'reduce "{reduce}" has no use for it', "leave it out")
        return 0.0
    if terms < 2:
        raise InputError("reduce", "mean_minus_std needs two members or more", "one has no spread")
    return finite_number(1.0 if std_weight is None else std_weight, "std_weight", at_least=0)
