"""A price on every word, character or token beyond a length that is free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rewards.compose.response_length import Unit, response_length, unit
from rewards.compose.settings import check_keys, finite_number
from rollout.types import Completion, InputError

__all__ = ["LengthPenalty", "build_length_penalty"]


@dataclass(frozen=True, slots=True)
class LengthPenalty:
    """reward − weight · max(0, length − above), the linear penalty in common use.

    `weight` is reward per unit of length, `above` a length in the same unit.
    """

    weight: float
    above: float = 0.0
    per: Unit = "word"

    def amount(self, completion: Completion) -> float:
        """What is to be taken off the reward, 0 or more. Raises as `response_length` does."""
        return self.weight * max(0.0, response_length(completion, self.per) - self.above)


def build_length_penalty(settings: Any, where: str) -> LengthPenalty | None:
    """{"weight", "above"?, "per"?} to a penalty; None stays None. Raises `InputError`."""
    if settings is None:
        return None
    given = check_keys(settings, where, ("per", "weight", "above"))
    if "weight" not in given:
        raise InputError(f"{where}: weight is missing; set it to the reward that one {{per}} costs")
    return LengthPenalty(
        weight=finite_number(given["weight"], f"{where}.weight", above=0),
        above=finite_number(given.get("above", 0.0), f"{where}.above", at_least=0),
        per=unit(given.get("per", "word"), f"{where}.per"),
    )
