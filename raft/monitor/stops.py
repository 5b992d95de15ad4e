"""What guards said in a run and where they stopped it: `guards.jsonl` and `stopped.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raft.monitor.guards import Alarm
from rollout.storage.files import read_json, read_rows, write_json, write_whole

__all__ = ["Stops"]

_GUARDS = "guards.jsonl"
_STOPPED = "stopped.json"


class Stops:
    """The two files of a run folder."""

    def __init__(self, root: Path) -> None:
        self._guards = root / _GUARDS
        self._stopped = root / _STOPPED

    def write_alarms(self, iteration: int, alarms: list[tuple[Alarm, bool]]) -> None:
        """The rows of one evaluation, in place of those an interrupted attempt left. The flag says
        whether the guard stops the run."""
        kept = read_rows(self._guards) if self._guards.exists() else ()
        rows: list[dict[str, Any]] = [row for row in kept if row["iteration"] < iteration]
        rows += (
            {"iteration": iteration, "guard": a.guard, "message": a.message, "stops": stops}
            for a, stops in alarms
        )
        if rows or self._guards.exists():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_whole(self._guards, text)

    def write_stop(
        self, iteration: int, alarm: Alarm, best: int, checkpoint: str
    ) -> dict[str, Any]:
        """Returns what it wrote. `checkpoint` lies in the run folder, or is the starting model."""
        stop = {
            "iteration": iteration,
            "guard": alarm.guard,
            "message": alarm.message,
            "best_iteration": best,
            "checkpoint": checkpoint,
        }
        write_json(self._stopped, stop)
        return stop

    def read_stop(self) -> dict[str, Any] | None:
        return read_json(self._stopped) if self._stopped.exists() else None

    def forget_stop(self) -> None:
        self._stopped.unlink(missing_ok=True)
