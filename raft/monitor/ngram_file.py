"""`ngrams.json` of an evaluation: what is said more often than at the start, and than last time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raft.monitor.ngrams import Change, changes, jumps
from rollout.storage.files import read_json, write_json

__all__ = ["Jump", "new_jumps", "read_jumps", "write_ngrams"]

_FILE = "ngrams.json"
_TOP = 20

Jump = tuple[str, Change]  # its sentence


def write_ngrams(
    home: Path,
    now: Sequence[str],
    start: Sequence[str],
    previous: tuple[int, Sequence[str]] | None = None,
) -> list[Jump]:
    """Compare the responses of one evaluation with the starting policy's and with those of the
    evaluation before, and store the most changed n-grams of both; returns those that jumped.

    Args:
        previous: its iteration and responses; None where that is the starting policy.
    """
    since_start = changes(now, start)
    found = [(one.sentence("at the start"), one) for one in jumps(since_start)]
    content: dict[str, Any] = {"start": _top(since_start)}
    if previous is not None:
        iteration, texts = previous
        since_then = changes(now, texts)
        sudden = jumps(since_then, [one for _, one in found])
        found += ((one.sentence(f"in iteration {iteration}"), one) for one in sudden)
        content["previous"] = _top(since_then)
        content["previous_iteration"] = iteration
    # in full, since these are read back and judged again: a rounded one may lie below the limit
    content["jumps"] = [{"message": message, **asdict(one)} for message, one in found]
    write_json(home / _FILE, content)
    return found


def read_jumps(home: Path) -> list[Jump]:
    """What jumped by then; nothing where nothing was compared, as for the starting policy."""
    if not (home / _FILE).exists():
        return []
    rows = read_json(home / _FILE)["jumps"]
    return [(row.pop("message"), Change(**row)) for row in rows]


def new_jumps(now: Iterable[Jump], earlier: Iterable[Jump]) -> list[Jump]:
    """Those that no earlier evaluation named, nor anything that overlaps with them."""
    fresh = set(jumps((one for _, one in now), [one for _, one in earlier]))
    return [(message, one) for message, one in now if one in fresh]


def _top(found: Sequence[Change]) -> list[dict[str, Any]]:
    return [one.row() for one in found[:_TOP]]
