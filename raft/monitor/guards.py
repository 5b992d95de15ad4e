"""Guards: rules on a run's evaluations which show that training goes wrong, and their records.

The rules are pure functions from evaluations to a sentence, or None. A run's folder records broken
ones in `guards.jsonl`, and the one that ended the run in `stopped.json`.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raft.runs.metrics import Numbers
from rollout.storage.files import intact, read_json, read_rows, write_json, write_whole

if TYPE_CHECKING:
    from raft.config.monitor import MonitorConfig

__all__ = [
    "Alarm",
    "Stop",
    "Stops",
    "alarms",
    "best_iteration",
    "gold_agrees",
    "idle_rules",
]

Rows = Sequence[Numbers]  # evaluations in order; the first is the starting policy's


@dataclass(frozen=True)
class Alarm:
    """A rule that is broken, and a message that says how."""

    guard: str
    message: str


@dataclass(frozen=True)
class Stop:
    """Where a guard ended the run, and the best policy until then.

    `checkpoint` is a path in the run folder, or the starting model.
    """

    iteration: int
    guard: str
    message: str
    best_iteration: int
    checkpoint: str


def alarms(rules: MonitorConfig, rows: Rows) -> list[Alarm]:
    """Return the rules on metrics that are broken at the last of `rows`.

    A limit that the starting policy is already beyond is not judged.
    """
    if len(rows) < 2:
        return []
    return [
        Alarm(guard, message)
        for guard, rule in _RULES.items()
        if (limit := getattr(rules, guard)) is not None
        and not _broken_at_start(guard, limit, rows[0])
        and (message := rule(rows, limit)) is not None
    ]


def idle_rules(rules: MonitorConfig, start: Numbers) -> list[Alarm]:
    """Return the limits that the starting policy is already beyond, which cannot judge training."""
    return [
        Alarm(guard, f"the starting policy is at {start[key]:.2f} already, beyond {limit:g}")
        for guard, (key, _) in _LIMITS.items()
        if (limit := getattr(rules, guard)) is not None and _broken_at_start(guard, limit, start)
    ]


def gold_agrees(rows: Rows) -> bool:
    """Return whether the gold reward of the last of `rows` is above the start's, and not below its
    peak, by more than both 95 % intervals; then the gold reward favours the n-grams that spread.

    False without a gold reward.
    """
    mean, half, _ = _TRUSTED[0]
    known = [row for row in rows if mean in row and half in row]
    if not known or known[-1] is not rows[-1]:
        return False
    start, now, peak = known[0], known[-1], max(known, key=lambda row: row[mean])
    above = now[mean] - start[mean] > math.hypot(now[half], start[half])
    return above and peak[mean] - now[mean] <= math.hypot(now[half], peak[half])


def best_iteration(rows: Rows) -> int:
    """Return the iteration with the highest gold reward, else held-out reward, else win rate.

    The first of these that all `rows` have is used; of equals the earlier iteration is returned,
    and the last iteration where they have none.
    """
    key = next((k for k in _QUALITY if all(k in row for row in rows)), None)
    if key is None:
        return rows[-1].iteration
    return max(rows, key=lambda row: row[key]).iteration


def _gold_patience(rows: Rows, patience: float) -> str | None:
    """Return a message where the reward is below its peak by more than both intervals together, in
    `patience` evaluations in a row; else None.

    The reward is the gold reward, or the win rate. Scores of the same prompts rise and fall
    together, so that √(a² + b²) is wider than the interval of their difference. That makes up for
    the peak being selected as the highest of several.
    """
    mean, half, name = next((keys for keys in _TRUSTED if keys[0] in rows[-1]), _TRUSTED[-1])
    known = [row for row in rows if mean in row and half in row]
    if len(known) <= patience:
        return None
    peak, now = max(known, key=lambda row: row[mean]), known[-1]

    def past(row: Numbers) -> bool:
        margin = math.hypot(row[half], peak[half])
        return row.iteration > peak.iteration and row[mean] < peak[mean] - margin

    if not all(past(row) for row in known[-int(patience) :]):
        return None
    return (
        f"{name} {now[mean]:.3f} ± {now[half]:.3f} is past its peak of "
        f"{peak[mean]:.3f} ± {peak[half]:.3f} in iteration {peak.iteration}"
    )


def _kl_budget(rows: Rows, budget: float) -> str | None:
    distance = rows[-1].get("eval/kl_k1")
    if distance is None or distance <= budget:
        return None
    return f"{distance:.2f} nats per response from the starting policy, budget {budget:g}"


def _duplicates(rows: Rows, limit: float) -> str | None:
    now, start = (rows[at].get("eval/duplicate_share") for at in (-1, 0))
    if now is None or start is None or now <= limit:
        return None
    return f"{100 * now:.0f} % of responses are duplicates, {100 * start:.0f} % at the start"


def _distinct(rows: Rows, limit: float) -> str | None:
    now, start = (rows[at].get("eval/distinct_2") for at in (-1, 0))
    if now is None or start is None or now >= limit:
        return None
    return f"distinct-2 is {now:.3f}, {start:.3f} at the start"


def _growth(key: str, what: str) -> Callable[[Rows, float], str | None]:
    def rule(rows: Rows, limit: float) -> str | None:
        now, start = (rows[at].get(key) for at in (-1, 0))
        if now is None or start is None or now <= limit * start:
            return None
        return f"{what} {now:.1f}, {start:.1f} at the start"

    return rule


def _broken_at_start(guard: str, limit: float, start: Numbers) -> bool:
    if guard not in _LIMITS:
        return False
    key, beyond = _LIMITS[guard]
    return key in start and beyond(start[key], limit)


_QUALITY = ("eval/gold_mean", "eval/reward_mean", "eval/win_rate")
# a reward that training does not optimise; without one, the win rate over the starting policy
_TRUSTED = (
    ("eval/gold_mean", "eval/gold_ci95", "gold reward"),
    ("eval/win_rate", "eval/win_rate_ci95", "win rate"),
)
_RULES: dict[str, Callable[[Rows, float], str | None]] = {
    "gold_patience": _gold_patience,
    "kl_budget": _kl_budget,
    "max_duplicate_share": _duplicates,
    "min_distinct_2": _distinct,
    "max_length_growth": _growth("eval/length_mean", "responses have on average tokens:"),
    "max_perplexity_growth": _growth("eval/perplexity", "perplexity of the reference text is"),
}
# limits on a value (not on its change), which a policy may be beyond before it is trained
_LIMITS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "max_duplicate_share": ("eval/duplicate_share", operator.gt),
    "min_distinct_2": ("eval/distinct_2", operator.lt),
}


_GUARDS = "guards.jsonl"
_STOPPED = "stopped.json"


class Stops:
    """The files of a run folder that record broken guards, and the guard that ended the run."""

    def __init__(self, root: Path) -> None:
        self._guards = root / _GUARDS
        self._stopped = root / _STOPPED

    def write_alarms(self, iteration: int, alarms: list[tuple[Alarm, bool]]) -> None:
        """Write the rows of one evaluation, in place of those that an interrupted attempt left.

        The flag of each alarm says whether its guard stops the run.
        """
        kept = read_rows(self._guards) if self._guards.exists() else ()
        rows: list[dict[str, object]] = [row for row in kept if row["iteration"] < iteration]
        rows += (
            {"iteration": iteration, "guard": a.guard, "message": a.message, "stops": stops}
            for a, stops in alarms
        )
        if rows or self._guards.exists():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_whole(self._guards, text)

    def write_stop(self, stop: Stop) -> None:
        write_json(self._stopped, asdict(stop))

    def read_stop(self) -> Stop | None:
        if not self._stopped.exists():
            return None
        with intact(self._stopped):
            return Stop(**read_json(self._stopped))

    def forget_stop(self) -> None:
        self._stopped.unlink(missing_ok=True)
