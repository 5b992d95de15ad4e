"""Rows that cannot be used: stop at the first one, or skip, count and name them.

Readers hand every InputError about a single row to a `BadRows`. Any other error of a file or of
settings always stops a command.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from rollout.data.jsonl import is_list
from rollout.errors import InputError
from rollout.text.printable import one_line

__all__ = ["SKIPPED", "BadRows", "OnBadRow", "Reason", "Skipped", "SkippedRow", "skipped_before"]

OnBadRow = Literal["stop", "skip"]
# reasons that are counted apart; in a file of broken JSON each row may have its own
_MOST_REASONS = 20
_OTHERS = "other reasons"
# the column that says why a row has no scores
SKIPPED = "skipped"


class SkippedRow(InputError):
    """A row that an earlier command skipped: it stays skipped, and stops no other command."""


def skipped_before(columns: Mapping[str, object]) -> str | None:
    """Return why an earlier command skipped this row; None where it did not.

    Such a row has the reason in the column `skipped`, beside a score column that is null.
    """
    reason = columns.get(SKIPPED)
    if not isinstance(reason, str) or not reason:
        return None
    ends = ("score", "scores")
    scores = [value for name, value in columns.items() if name.rpartition("_")[2] in ends]
    return reason if any(map(_is_null, scores)) else None


def _is_null(scores: object) -> bool:
    return scores is None or (is_list(scores) and all(one is None for one in scores))


class Reason(TypedDict):
    """How many rows were skipped for a reason, and the place of the first one."""

    rows: int
    first: str


class Skipped(TypedDict):
    """How many rows were skipped, and for which reasons."""

    skipped: int
    skipped_reasons: dict[str, Reason]


@dataclass(slots=True)
class BadRows:
    """The bad rows of one reading: number of the row, or id of a prompt -> reason.

    Args:
        policy: "stop" raises the first error.
    """

    policy: OnBadRow = "stop"
    reasons: dict[int | str, str] = field(default_factory=dict[int | str, str])
    _first: dict[str, str] = field(default_factory=dict[str, str])

    def take(self, number: int | str, where: str, error: Exception) -> str:
        """Count a bad row and return the reason.

        Raises `error` where the policy is "stop", unless an earlier command skipped the row.
        """
        if self.policy == "stop" and not isinstance(error, SkippedRow):
            raise error
        if number not in self.reasons:
            reason = one_line(error.problem if isinstance(error, InputError) else error)
            if reason not in self._first and len(self._first) >= _MOST_REASONS:
                reason = _OTHERS
            self._first.setdefault(reason, where)
            self.reasons[number] = reason
        return self.reasons[number]

    def summary(self) -> Skipped:
        """Return the number of bad rows and their reasons, for a command's summary."""
        told = list(self.reasons.values())
        return {
            "skipped": len(told),
            "skipped_reasons": {
                reason: {"rows": told.count(reason), "first": where}
                for reason, where in self._first.items()
            },
        }

    def nothing_left(self, name: object, what: str = "rows") -> InputError:
        """Return the error for a file `name` without a usable row; `what` it should hold."""
        if self.reasons:
            return InputError(name, f"no row can be used: {self.line()}")
        return InputError(name, f"holds no {what}", "name a file with at least one")

    def warn(self, name: object, log: logging.Logger) -> None:
        """Log a warning with the bad rows of the file `name`, where there are any."""
        if self.reasons:
            log.warning("%s: %s", name, self.line())

    def line(self) -> str:
        """Return the bad rows and their reasons in words, "" where no row is bad."""
        if not self.reasons:
            return ""
        told = list(self.reasons.values())
        parts = (
            f"{told.count(reason)} × {reason} (the first: {where})"
            for reason, where in self._first.items()
        )
        rows = "1 row" if len(told) == 1 else f"{len(told)} rows"
        return f"{rows} skipped: {'; '.join(parts)}"
