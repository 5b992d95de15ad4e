"""Whose files these are: the settings that output files were made with, and who may write them.

Beside the first of the files, `NAME`, stands `.NAME.settings` with the settings, what tells the
finished files from others of their names, and a record of the work; `.NAME.lock` is there while a
process works.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from raft.files import full_disk_is_the_users, write_json
from raft.output_settings import differences, identity, lock_output, read_settings
from rollout.errors import InputError

__all__ = ["Claim"]


class Claim:
    """Output `files` under `settings`; one process at a time.

    `complete` says that all of them are there under these settings, and `record` is what `finish`
    was told. Otherwise `begin` comes before the first byte is written, `finish` after the last;
    `leftovers` are what an interrupted command may have left to go on from. With `restart` all of
    it is deleted. With `redo` other settings are no obstacle: the files are cheap to make anew.

    Raises:
        InputError: what is there was made with other settings or came from elsewhere; the folder
            cannot be written; another process is at work.
    """

    def __init__(
        self,
        files: Sequence[Path],
        settings: dict[str, Any],
        *,
        leftovers: Sequence[Path] = (),
        restart: bool = False,
        redo: bool = False,
    ) -> None:
        self._files = tuple(files)
        self._leftovers = tuple(leftovers)
        self._settings = json.loads(json.dumps(settings, default=str))  # as it is read back
        first = self._files[0]
        self._path = first.with_name(f".{first.name}.settings")
        self._lock_path = first.with_name(f".{first.name}.lock")
        self._lock = self._locked()
        try:
            stored = read_settings(self._path)
            if restart:
                self._delete()
                stored = {}
            self.complete = self._is_complete(stored)
            self.record: dict[str, Any] = stored.get("record") or {} if self.complete else {}
            if not self.complete:
                self._check(stored, redo)
        except BaseException:
            self._release()
            raise

    def begin(self) -> None:
        """From now on what is there is of these settings."""
        self._write(files=None, record=None)

    def finish(self, record: dict[str, Any]) -> None:
        self._write({file.name: identity(file.stat()) for file in self._files}, record)
        self.complete, self.record = True, record

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()

    def _is_complete(self, stored: dict[str, Any]) -> bool:
        known = stored.get("files") or {}
        return stored.get("settings") == self._settings and all(
            file.exists() and known.get(file.name) == identity(file.stat()) for file in self._files
        )

    def _check(self, stored: dict[str, Any], redo: bool) -> None:
        """Refuse to touch what is another's, or what other settings made."""
        there = [file for file in self._files if file.exists()]
        begun = any(path.exists() and path.stat().st_size > 0 for path in self._leftovers)
        known = stored.get("files")
        for file in there:
            # a claim that was begun and not finished made whatever is there
            foreign = not stored or (
                known is not None and known.get(file.name) != identity(file.stat())
            )
            if foreign:
                raise InputError(
                    f"{file}: is there already, and nothing tells how it was made; use --restart "
                    "to make it anew, or another --out"
                )
        changed = differences(stored.get("settings") or {}, self._settings)
        if changed and (there or begun) and not redo:
            what = "is there already" if there else "was begun by an interrupted command"
            raise InputError(
                f"{self._files[0]}: {what}, under other settings ({', '.join(changed)}); restore "
                "them, use --restart to make it anew, or another --out"
            )

    def _delete(self) -> None:
        for path in (*self._files, *self._leftovers, self._path):
            path.unlink(missing_ok=True)

    def _write(self, files: dict[str, list[int]] | None, record: dict[str, Any] | None) -> None:
        write_json(self._path, {"settings": self._settings, "files": files, "record": record})

    def _locked(self) -> Any:
        folder = self._lock_path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with full_disk_is_the_users(self._lock_path):
                lock = open(self._lock_path, "a")  # noqa: SIM115 - held until the end
        except OSError as error:
            raise InputError(
                f"{self._files[0]}: cannot be written ({error.strerror}); choose another --out"
            ) from error
        lock_output(lock, self._files[0])
        return lock

    def _release(self) -> None:
        # nothing was made: nothing is to be known of it
        if not any(path.exists() for path in (*self._files, *self._leftovers)):
            self._path.unlink(missing_ok=True)
        self._lock_path.unlink(missing_ok=True)
        self._lock.close()
