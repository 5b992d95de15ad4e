"""The folder of a run: its lock, its resolved config, its finished iterations and its metrics."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import yaml

from raft.runs.metrics import Numbers
from raft.updates.optimizer import is_whole
from rollout.data.jsonl import is_object
from rollout.data.overrides import parse_yaml
from rollout.data.samples import SampleRow, read_samples
from rollout.errors import InputError, naming
from rollout.storage.files import (
    GONE,
    intact,
    open_locked,
    read_json,
    read_rows,
    remove_tree,
    write_json,
    write_whole,
    writing,
)
from rollout.storage.settings import differences

_WHOLE, _WEIGHTS = "checkpoint", "policy"  # folders of a policy
UNFINISHED = ".checkpoint-"  # a checkpoint that is being written; the rest of its name is random
# keys that may differ between a run and its continuation, since they change no sample
_FREE_KEYS = (
    "iterations",
    "eval.every",
    "cluster",
    "log",
    "checkpoint",
    "keep_checkpoints",
    "run_dir",
    "prompts.on_bad_row",
    "on_bad_row",
)
# the monitor's may differ too, but for this: perplexities of two texts make no curve
_MONITORED = "reference_text"


class RunFolder:
    """The folder `run_dir`, made or continued, and locked: one process at a time has it.

    Raises:
        InputError: another process holds the folder, or it belongs to another config.
    """

    def __init__(self, run_dir: str | Path, config: Mapping[str, object]) -> None:
        self.root = Path(os.path.realpath(run_dir))
        self._lock = self._take_lock()
        try:
            self._metrics = self._read_metrics()
            self._record_config(config)
            self._clear_away()
        except BaseException:
            self.close()
            raise

    def iteration(self, number: int) -> Path:
        folder = self.root / "iterations" / f"{number:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def at_start(self) -> Iterator[SampleRow]:
        """Yield the held-out responses of the starting policy, which must have been evaluated."""
        return read_samples(self.iteration(0) / "eval.jsonl")

    def checkpoint(self, version: int, *, whole: bool = True) -> Path:
        """Return the folder for the policy after `version` updates, which is 1 or more.

        A `whole` one has all that training goes on from, another the weights alone.
        """
        return self.iteration(version) / (_WHOLE if whole else _WEIGHTS)

    def latest_version(self) -> int:
        return max(stored_policies(self.root), default=0)

    def finished(self, iterations: int) -> bool:
        """Return whether so many iterations are done; they are where a later policy is stored."""
        return self.latest_version() > iterations or self.has_metrics(iterations, "eval")

    def has_metrics(self, iteration: int, phase: str) -> bool:
        return any(r["iteration"] == iteration and r["phase"] == phase for r in self._metrics)

    def improved(self, iteration: int) -> bool:
        """Return whether the iteration's update is done and its policy, or a later one, is stored.

        A policy that has been deleted is trained again, from the stored rows.
        """
        there = self.latest_version() >= iteration or not self.learned(iteration)
        return there and self.has_metrics(iteration, "train")

    def learned(self, iteration: int) -> bool:
        """Return whether the iteration, which is done, trained the policy on any rows."""
        rows = [r for r in self._metrics if (r["iteration"], r["phase"]) == (iteration, "train")]
        return any(row.get("select/kept") != 0 for row in rows)

    def policy(self, version: int) -> Path | None:
        """Return the folder of a policy; None for the starting model.

        Where its own iteration learned nothing, this is the folder of an earlier policy.
        """
        stored = stored_policies(self.root)
        while version and version not in stored and not self.learned(version):
            version -= 1
        return stored.get(version, self.checkpoint(version)) if version else None

    def trained_from(self, version: int, *, weights: bool) -> tuple[Path | None, list[int]]:
        """Return the folder from which training can go on to `version`, and the iterations whose
        updates must be made again after it.

        The folder is None for the starting model. With `weights` it need not have the optimizer.
        """
        stored = stored_policies(self.root, whole=not weights)
        begun = max((one for one in stored if one <= version), default=0)
        known = {version} & stored_policies(self.root).keys()
        since = [n for n in range(begun + 1, version + 1) if n in known or self.learned(n)]
        return stored.get(begun), since

    def add_metrics(
        self, iteration: int, phase: str, values: Mapping[str, object]
    ) -> dict[str, object]:
        """Append a row to metrics.jsonl and return it; the file is written anew, as a whole."""
        row: dict[str, object] = {"iteration": iteration, "phase": phase, **values}
        self._metrics.append(row)
        lines = (json.dumps(item, allow_nan=False) + "\n" for item in self._metrics)
        write_whole(self.root / "metrics.jsonl", "".join(lines))
        return row

    def metrics(self) -> list[dict[str, object]]:
        return list(self._metrics)

    def evaluations(self) -> list[Numbers]:
        """Return the metrics of every evaluation, in order."""
        rows = (row for row in self._metrics if row["phase"] == "eval")
        return [Numbers.of(int(str(row["iteration"])), row) for row in rows]

    def write_environment(self, environment: Mapping[str, object]) -> None:
        write_json(self.root / "env.json", environment)

    def drop_old_checkpoints(self, keep: int, best: int, overlap: int = 0) -> None:
        """Delete all policies but the newest, that of iteration `best`, and the newest `keep` that
        training can go on from. Called only when the newest has been evaluated.

        With an `overlap`, policies that drew the rows of updates which may be made again stay too.
        """
        stored = stored_policies(self.root)
        whole = stored_policies(self.root, whole=True)
        kept = {*list(stored.values())[-1:], *list(whole.values())[-keep:], self.policy(best)}
        since = max(whole, default=0) - overlap
        if overlap:  # that iteration may have learned nothing, so that its policy is an older one
            kept.add(self.policy(max(since, 0)))
        for version, path in stored.items():
            if path not in kept and not (overlap and version >= since):
                remove_tree(path)

    def drop_unfinished_checkpoints(self, iteration: int) -> None:
        """Delete what killed attempts at the checkpoint of a finished iteration left behind."""
        for leftover in self.iteration(iteration).glob(f"{UNFINISHED}*"):
            remove_tree(leftover)

    def close(self) -> None:
        self._lock.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take_lock(self) -> BinaryIO:
        where = f"run_dir={self.root}"
        with writing(where, "choose another run_dir"):
            self.root.mkdir(parents=True, exist_ok=True)
        lock = open_locked(
            self.root / "run.lock",
            where,
            "is in use by process {holder}",
            "choose another run_dir",
        )
        with naming(lock.name):
            lock.truncate(0)
            lock.write(str(os.getpid()).encode())
        return lock

    def _record_config(self, config: Mapping[str, object]) -> None:
        path = self.root / "config.yaml"
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        with naming(path):  # bytes that are not UTF-8 appear as replacement characters
            there = path.exists()
            before = path.read_text(encoding="utf-8", errors="replace") if there else None
        if before == text:
            return
        if before is not None and self._holds_samples():
            stored, given = _parsed(before, path), yaml.safe_load(text)
            changed = differences(_comparable(stored), _comparable(given), _FREE_KEYS)
            if changed:
                raise InputError(
                    "run_dir",
                    f"{self.root} belongs to another config (it differs in {', '.join(changed)})",
                    f"restore these keys, or {self._way_on()}",
                )
        write_whole(path, text)

    def record_prompts(self, digest: str) -> None:
        """Refuse to continue with other prompts than those the samples here were drawn for.

        Raises:
            InputError: the prompts changed under an unchanged config.
        """
        path = self.root / "prompts.sha256"
        if path.exists() and self._holds_samples():
            if path.read_text(errors="replace").strip() != digest:
                raise InputError(
                    "run_dir",
                    f"the prompts (or the policy's tokenizer) are not those that {self.root} "
                    "began with",
                    "restore them or choose another run_dir",
                )
            return
        write_whole(path, digest + "\n")

    def record_models(self, policy: Mapping[str, object], rewards: Mapping[str, object]) -> None:
        """Refuse to continue with another policy, reward function or model under the same name.

        A reward may change as long as no stage is scored: what it has scored so far is forgotten.

        Args:
            policy, rewards: files and folders by their names, as `made_of` tells their content.

        Raises:
            InputError: it names the file.
        """
        path = self.root / "models.json"
        stored = read_json(path) if path.exists() and self._holds_samples() else None
        before = stored if is_object(stored) else {}
        if name := _changed(before.get("policy"), policy):
            raise InputError(name, f"is not the policy that {self.root} began with", "restore it")
        if name := _changed(before.get("rewards"), rewards):
            if self._metrics or any(self.root.glob("iterations/*/*.jsonl")):
                raise InputError(
                    name,
                    f"is not what {self.root} began with: rewards of two kinds would stand in one "
                    "curve",
                    f"restore it, or {self._way_on()}",
                )
            for scores in self.root.glob("iterations/*/.*.scores"):
                scores.unlink()
        write_json(path, {"policy": policy, "rewards": rewards})

    def _way_on(self) -> str:
        """Return a fix for an error message: how a new run can take over from this one."""
        version = self.latest_version()
        policy = f" policy.model={self.policy(version)}" if version else ""
        return f"begin a new run: run_dir=…{policy}"

    def _holds_samples(self) -> bool:
        """Return whether the folder has metrics or files that another config would invalidate."""
        files = (path for path in self.root.glob("iterations/*/*") if path.is_file())
        return bool(self._metrics) or any(path.stat().st_size for path in files)

    def _clear_away(self) -> None:
        for gone in self.root.glob(f"iterations/*/{GONE}*"):
            shutil.rmtree(gone, ignore_errors=True)
        # so that a trainer of a killed run which still writes such a file cannot complete it
        for unfinished in self.root.glob(f"iterations/*/{_WHOLE}/.*.partial"):
            unfinished.unlink(missing_ok=True)

    def _read_metrics(self) -> list[dict[str, object]]:
        path = self.root / "metrics.jsonl"
        if not path.exists():
            return []
        rows = list(read_rows(path))
        with intact(path):
            done = max((int(str(row["iteration"])) for row in rows if row["phase"]), default=0)
        if self.latest_version() > done + 1:
            problem = f"ends at iteration {done}, and {self.checkpoint(self.latest_version())} is"
            raise InputError(path, f"{problem} there", "restore it, or choose another run_dir")
        return rows


def stored_policies(run_dir: Path, *, whole: bool = False) -> dict[int, Path]:
    """Return the folders of a run's policies on disk, by version and in its order.

    With `whole`, only those that training can go on from.
    """
    found = {
        int(path.parent.name): path
        for name in ((_WHOLE,) if whole else (_WEIGHTS, _WHOLE))
        for path in run_dir.glob(f"iterations/*/{name}")
        if path.is_dir() and path.parent.name.isdecimal() and not (whole and not is_whole(path))
    }
    return dict(sorted(found.items()))


def _changed(before: object, now: Mapping[str, object]) -> str | None:
    """Return the first name (in alphabetical order) whose content has changed; None without one."""
    if not is_object(before):
        return None
    return next((name for name in sorted(now) if before.get(name, now[name]) != now[name]), None)


def _parsed(text: str, path: Path) -> object:
    try:
        return parse_yaml(text, str(path)) or {}
    except InputError as error:
        raise InputError(
            path,
            "damaged, so this folder cannot be continued",
            "choose another run_dir",
        ) from error


def _comparable(stored: object) -> dict[str, object]:
    """Return a config written by any version in the form in which configs are compared.

    It has today's keys, with defaults for new ones, and of the monitor's settings the one that
    matters.
    """
    from pydantic import ValidationError

    from raft.config.run import RunConfig
    from rewards.spec_reader import rewritten

    columns = dict(stored) if is_object(stored) else {}
    try:
        columns = RunConfig.model_validate(columns).model_dump(mode="json")
    except (ValidationError, InputError):  # a key that has gone: what is left can be compared
        for key in ("reward", "gold"):
            columns[key] = rewritten(columns.get(key))
    monitor = columns.get("monitor")  # folders of old have none
    text = monitor.get(_MONITORED) if is_object(monitor) else None
    select = columns.get("select")
    if not (is_object(select) and select.get("shuffle")):  # a run is the same beside any control
        columns["control"] = None
    return {**columns, "monitor": {_MONITORED: text}}
