"""The verdict of one check of a model. This module knows nothing of models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Finding", "Level", "note", "ok", "wrong"]

Level = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict on one property of a model.

    `what` names the property in a word or two, `detail` is what was seen, `fix` what to do about
    it, `values` are the numbers in `detail`, for scripts.
    """

    level: Level
    what: str
    detail: str
    fix: str = ""
    values: Mapping[str, float | int] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """Return the finding as plain values; numbers that are not finite, which JSON lacks, are
        None."""
        return {
            "level": self.level,
            "what": self.what,
            "detail": self.detail,
            "fix": self.fix,
            "values": {k: v if math.isfinite(v) else None for k, v in self.values.items()},
        }


def ok(what: str, detail: str, **values: float) -> Finding:
    """Return a finding that `what` is as it should be."""
    return Finding("ok", what, detail, values=values)


def note(what: str, detail: str, fix: str = "", **values: float) -> Finding:
    """Return a finding that is worth knowing, while scores mean what they should."""
    return Finding("note", what, detail, fix, values)


def wrong(what: str, detail: str, fix: str, **values: float) -> Finding:
    """Return a finding by which scores do not mean what they should, or there are none."""
    return Finding("wrong", what, detail, fix, values)
