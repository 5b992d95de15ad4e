"""The folder of a run: its lock, its resolved config, what is finished, and its metrics."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from raft.files import remove_tree, write_json, write_whole
from rollout.errors import InputError

# these may differ between a run and its continuation: they change no sample
_FREE_KEYS = ("iterations", "cluster", "log", "keep_checkpoints", "run_dir")


class RunFolder:
    """Opens or continues `run_dir`; one process at a time.

    Raises:
        InputError: another process holds the folder, or it belongs to another config.
    """

    def __init__(self, run_dir: str | Path, config: dict[str, Any]) -> None:
        self.root = Path(run_dir).resolve()
        self._make_root()
        self._lock = self._take_lock()
        self._metrics = self._read_metrics()
        self._settle_config(config)

    def iteration(self, number: int) -> Path:
        folder = self.root / "iterations" / f"{number:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def checkpoint(self, version: int) -> Path:
        """The policy after `version` updates; version 0 is the starting model, not kept here."""
        return self.iteration(version) / "checkpoint"

    def latest_version(self) -> int:
        versions = [
            int(path.parent.name)
            for path in self.root.glob("iterations/*/checkpoint")
            if path.is_dir()
        ]
        return max(versions, default=0)

    def has_metrics(self, iteration: int, phase: str) -> bool:
        return any(r["iteration"] == iteration and r["phase"] == phase for r in self._metrics)

    def add_metrics(self, iteration: int, phase: str, values: dict[str, Any]) -> dict[str, Any]:
        """Append one row; the file is small and written anew, so it is never half there."""
        row = {"iteration": iteration, "phase": phase, **values}
        self._metrics.append(row)
        lines = (json.dumps(item, allow_nan=False) + "\n" for item in self._metrics)
        write_whole(self.root / "metrics.jsonl", "".join(lines))
        return row

    def metrics(self) -> list[dict[str, Any]]:
        return list(self._metrics)

    def write_environment(self, environment: dict[str, Any]) -> None:
        write_json(self.root / "env.json", environment)

    def drop_old_checkpoints(self, keep: int) -> None:
        """Keep the newest `keep` policies. Called only when the newest has been evaluated."""
        paths = sorted(self.root.glob("iterations/*/checkpoint"))
        for path in paths[:-keep]:
            remove_tree(path)

    def close(self) -> None:
        self._lock.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _make_root(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise InputError(
                f"run_dir: cannot make the folder {self.root} ({error.strerror}); choose another"
            ) from error

    def _take_lock(self) -> Any:
        lock = open(self.root / "run.lock", "a+")  # noqa: SIM115 - held while the run lives
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise InputError(
                f"run_dir: {self.root} is in use by process {holder}; wait for it, end it, or "
                "choose another run_dir"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock

    def _settle_config(self, config: dict[str, Any]) -> None:
        path = self.root / "config.yaml"
        if path.exists():
            stored = yaml.safe_load(path.read_text()) or {}
            changed = _differences(stored, config)
            if changed:
                self.close()
                raise InputError(
                    f"run_dir: {self.root} belongs to another config (it differs in "
                    f"{', '.join(changed)}); choose another run_dir or restore these keys"
                )
        write_whole(path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def _read_metrics(self) -> list[dict[str, Any]]:
        path = self.root / "metrics.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines()]


def _differences(stored: Any, given: Any, prefix: str = "") -> list[str]:
    """Dotted keys on which two configs disagree, beyond those that change no sample."""
    if not (isinstance(stored, dict) and isinstance(given, dict)):
        return [] if stored == given else [f"{prefix} {stored!r} → {given!r}"]
    changed: list[str] = []
    for key in sorted({*stored, *given}):
        if not prefix and key in _FREE_KEYS:
            continue
        dotted = f"{prefix}.{key}" if prefix else key
        changed += _differences(stored.get(key), given.get(key), dotted)
    return changed
