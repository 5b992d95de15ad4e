"""Read and write `reward.json`, the record beside the weights of how a reward model reads text.

Files of transformers have no place for a text format, a BOS policy or the side on which long texts
are cut. Chat template and PAD are in transformers' own files too, for programs that do not know
`reward.json`.
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
    """Write `reward.json` into `folder`.

    `reading` is what an encoder's `describe` returns; of it the arguments of `load_reward` are
    written. Of `more` only `kind` is read again (`recorded_kind`); the rest is for people.
    """
    values = {"reading": {key: reading[key] for key in KEYS if key in reading}, **more}
    (folder / RECORD).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def with_record(
    folder: Path, settings: ModelSettings, *, side: str | None = None, separator: str = ""
) -> ModelSettings:
    """Return `settings`, with what they leave open set as the folder's record says.

    `side` and `separator` are the caller's own arguments, unset where None and "": `settings` holds
    their defaults and cannot tell. Raises `InputError` for a record that cannot be read.
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
    """Return the record's arguments of `load_reward`; an empty dict where the folder has no record.

    Raises `InputError` for a record that cannot be read.
    """
    found = _content(folder).get("reading", {})
    if not isinstance(found, dict):
        raise _unreadable(folder)
    said = {key: found[key] for key in KEYS if found.get(key) is not None}
    # records without "eos" are of models that were trained without one
    return {"eos": "none", **said} if said else {}


def recorded_kind(folder: Path) -> str | None:
    """Return the kind that the record names; None where it names none.

    It is recorded where the weights cannot tell the family.

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
