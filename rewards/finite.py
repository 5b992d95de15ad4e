"""The one gate that every score passes: a number, a missing score, or an error."""

from __future__ import annotations

import math

from rewards.types import NonFinite, RewardError
from rollout.types import InputError

POLICIES = ("raise", "missing")


def check_policy(non_finite: str) -> None:
    """Raises `InputError` for anything but "raise" and "missing"."""
    if non_finite not in POLICIES:
        raise InputError(f"non_finite={non_finite!r} is unknown: use one of {', '.join(POLICIES)}")


def finite_or_missing(
    value: float, *, source: str, where: str, non_finite: NonFinite
) -> float | None:
    """`value` itself when it is finite; otherwise None or `RewardError`, as `non_finite` says."""
    if math.isfinite(value):
        return value
    if non_finite == "missing":
        return None
    raise RewardError(
        f"{source} gave {value} for {where}: a reward must be finite "
        f'(non_finite="missing" leaves such samples out instead)'
    )
