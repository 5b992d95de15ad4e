"""A penalty on every word, character or token beyond a free length, and how lengths are counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from rewards.combine.checks import check_keys, finite_number, one_of
from rollout.types import Completion, InputError

__all__ = [
    "LengthPenalty",
    "Unit",
    "build_length_penalty",
    "response_length",
    "unit",
]

Unit = Literal["word", "char", "token"]
UNITS = ("word", "char", "token")


def unit(per: object, where: str) -> Unit:
    """Return `per` when it is a unit of length. Raises `InputError` otherwise."""
    return cast(Unit, one_of(per, where, UNITS))


def response_length(completion: Completion, per: Unit) -> int:
    """Return the number of words (separated by white space), characters, or tokens as drawn.

    Raises `InputError` where tokens are asked for and none are known: text read from a file has
    none, and a length of 0 would spare it every penalty.
    """
    if per == "word":
        return len(completion.text.split())
    if per == "char":
        return len(completion.text)
    if completion.text and not completion.token_ids:
        raise InputError(
            "per",
            '"token" needs the responses\' token ids, and they have none',
            'use "word" or "char"',
        )
    return len(completion.token_ids)


@dataclass(frozen=True, slots=True)
class LengthPenalty:
    """reward − weight · max(0, length − above), the linear penalty in common use.

    `weight` is reward per unit of length, `above` a length in the same unit.
    """

    weight: float
    above: float = 0.0
    per: Unit = "word"

    def amount(self, completion: Completion) -> float:
        """Return what to subtract from the reward, 0 or more. Raises as `response_length` does."""
        return self.weight * max(0.0, response_length(completion, self.per) - self.above)


def build_length_penalty(settings: object, where: str) -> LengthPenalty | None:
    """Build a penalty from {"weight", "above"?, "per"?}; return None for None.

    Raises `InputError` for other keys or values.
    """
    if settings is None:
        return None
    given = check_keys(settings, where, ("per", "weight", "above"))
    if "weight" not in given:
        raise InputError(where, "weight is missing", "set it to the reward that one {per} costs")
    return LengthPenalty(
        weight=finite_number(given["weight"], f"{where}.weight", above=0),
        above=finite_number(given.get("above", 0.0), f"{where}.above", at_least=0),
        per=unit(given.get("per", "word"), f"{where}.per"),
    )
