"""How long a response is, in the unit that penalties and debiasing count in."""

from __future__ import annotations

from typing import Literal, cast

from rewards.compose.settings import one_of
from rollout.types import Completion, InputError

__all__ = ["Unit", "response_length", "unit"]

Unit = Literal["word", "char", "token"]
UNITS = ("word", "char", "token")


def unit(per: str, where: str) -> Unit:
    """`per` itself when it is a unit. Raises `InputError` otherwise."""
    return cast(Unit, one_of(per, where, UNITS))


def response_length(completion: Completion, per: Unit) -> int:
    """Words (separated by white space), characters, or the tokens that the policy drew.

    Raises `InputError` where tokens are asked for and none are known: text read from a file has
    none, and a length of 0 would spare it every penalty.
    """
    if per == "word":
        return len(completion.text.split())
    if per == "char":
        return len(completion.text)
    if completion.text and not completion.token_ids:
        raise InputError(
            'per: "token" needs the responses\' token ids, and they have none; use "word" or "char"'
        )
    return len(completion.token_ids)
