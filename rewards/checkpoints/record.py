"""`reward.json`: what a reward model reads, beside its weights.

Files of transformers have no place for a text format, a BOS policy or the side on which long texts
are cut. Chat template and PAD are in their own files too, for those who do not know this one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rewards.checkpoints.settings import ModelSettings
from rollout.types import InputError

__all__ = ["RECORD", "read_record", "recorded_kind", "with_record", "write_record"]

RECORD = "reward.json"
# the arguments of `load_reward` that a record may give
KEYS = (
    "format",
    "bos",
    "eos",
    "max_length",
    "truncation_side",
    "separator",
    "chat_template_kwargs",
)


def write_record(folder: Path, reading: Mapping[str, object], **more: object) -> None:
    """`reading` is what an encoder's `describe` says; `more` is for people."""
    values = {"reading": {key: reading[key] for key in KEYS if key in reading}, **more}
    (folder / RECORD).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def with_record(
    folder: Path, settings: ModelSettings, *, side: str | None = None, separator: str = ""
) -> ModelSettings:
    """`settings` with what they leave open as the record says it.

    `side` and `separator` are what the caller was given of them: `settings` cannot tell a default.
    Raises `InputError` for a record that cannot be read.
    """
    found = read_record(folder)
    open_keys = [
        key
        for key in ("format", "bos", "eos", "max_length", "chat_template_kwargs")
        if getattr(settings, key) is None
    ]
    open_keys += ["truncation_side"] * (side is None) + ["separator"] * (not separator)
    return replace(settings, **{key: found[key] for key in open_keys if key in found})


def read_record(folder: Path) -> dict[str, Any]:
    """Arguments of `load_reward`, or nothing where the folder has no record.

    Raises `InputError` for a record that cannot be read.
    """
    found = _content(folder).get("reading", {})
    if not isinstance(found, dict):
        raise _unreadable(folder)
    said = {key: found[key] for key in KEYS if found.get(key) is not None}
    return {"eos": "none", **said} if said else {}  # before it was written down there was none


def recorded_kind(folder: Path) -> str | None:
    """The kind that the record names, where the weights cannot tell; None without a record.

    Raises `InputError` for a record that cannot be read.
    """
    return _content(folder).get("kind")


def _content(folder: Path) -> dict[str, Any]:
    file = folder / RECORD
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise _unreadable(folder) from None
    if not isinstance(found, dict):
        raise _unreadable(folder)
    return found


def _unreadable(folder: Path) -> InputError:
    return InputError(f"{folder / RECORD}", "not readable", "fix it or delete it")
