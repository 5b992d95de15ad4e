"""Run `raft …` commands once each: a finished one is not repeated, and its seconds are stored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import raft.cli.__main__
from rollout.storage.files import write_json

__all__ = ["Commands"]


class Commands:
    """Commands of one experiment, with their output and seconds in `folder`.

    Several threads may run commands at once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "logs"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._costs = folder / "seconds.json"
        self._keeping = threading.Lock()

    def raft(
        self,
        name: str,
        *arguments: str | Path,
        environment: Mapping[str, str] | None = None,
        python: Sequence[str] = (sys.executable,),
    ) -> None:
        """Run `raft ARGUMENTS` unless a command of that name has succeeded before.

        `python` is the command of an interpreter that runs a script. Ends with SystemExit where
        the command fails.
        """
        if name in self.seconds():
            return
        print(f"{name}: raft {' '.join(map(str, arguments))}", flush=True)
        log, start = self._folder / f"{name}.txt", time.monotonic()
        with open(log, "w", encoding="utf-8") as file:
            done = subprocess.run(
                [*python, raft.cli.__main__.__file__, *map(str, arguments)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )
        if done.returncode:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise SystemExit(f"{name} ended with {done.returncode}; the end of {log}:\n{tail}")
        with self._keeping:
            costs = {**self.seconds(), name: round(time.monotonic() - start, 1)}
            write_json(self._costs, costs)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each finished command."""
        return json.loads(self._costs.read_text()) if self._costs.exists() else {}
