"""The folder that a command's report goes to: Markdown to read, JSON for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raft.files import full_disk_is_the_users, write_json, write_whole
from rollout.errors import InputError

__all__ = ["make_out_folder", "write_report_files"]


def make_out_folder(out: str) -> Path:
    """Raises InputError where there can be no such folder: call it before work is done."""
    folder = Path(out).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}; name a folder") from error
    return folder


def write_report_files(folder: Path, stem: str, markdown: str, value: Any) -> list[Path]:
    """STEM.md and STEM.json. Raises InputError where they cannot be written."""
    text, data = folder / f"{stem}.md", folder / f"{stem}.json"
    try:
        with full_disk_is_the_users(folder):
            write_whole(text, markdown)
            write_json(data, value)
    except OSError as error:
        raise InputError(f"--out {folder}: {error.strerror}; choose another place") from error
    return [text, data]
