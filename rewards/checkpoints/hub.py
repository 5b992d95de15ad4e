"""Find a model's files: a local folder, or the hub's cache after a download."""

from __future__ import annotations

import os
import re
from pathlib import Path

from rollout.types import InputError

__all__ = ["check_model", "description_folder", "local_folder", "local_path"]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_DESCRIPTION = ("*.json", "*.jinja", "*.model", "*.txt")


def local_folder(path: str | Path) -> Path:
    """Return the folder of a model given by path or hub name; a hub model is downloaded.

    From the hub come configuration, tokenizer and safetensors; `.bin` weights only where there are
    no safetensors; never Python files. Raises `InputError` when neither place has the model.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if _HUB_NAME.fullmatch(str(path)) is None:
        raise InputError(path, "no such folder", "give a model folder or a hub name (owner/name)")
    found = _download(str(path), "*.safetensors")
    if not any(found.glob("*.safetensors")):
        found = _download(str(path), "pytorch_model*.bin", "adapter_model.bin", "value_head.bin")
    return found


def local_path(model: str) -> str:
    """Return a model folder as an absolute path, and a hub name unchanged."""
    path = Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() else model


def check_model(model: str, key: str, *, adapters: bool = False, hub: bool = True) -> None:
    """Check that `model` is a model folder or a name on the hub. Raises `InputError` at `key`.

    A `model` that looks like a path must be a folder. Without `hub`, a hub name is not looked up.
    Folders of adapters pass only with `adapters`.
    """
    path = Path(model).expanduser()
    looks_local = path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1
    if (looks_local or os.path.lexists(path)) and not path.is_dir():
        problem = f"{model} is no folder" if os.path.lexists(path) else f"no such folder {model}"
        raise InputError(key, problem, "give a model folder or a hub name")
    marks = ("config.json", "toy_policy.json", *(["adapter_config.json"] * adapters))
    if path.is_dir() and not any((path / mark).exists() for mark in marks):
        adapted = (path / "adapter_config.json").exists()
        problem = "is an adapter" if adapted else "has no config.json, so it is no model folder"
        fix = "merge it into its base model and save that" if adapted else "give a model folder"
        raise InputError(key, f"{model} {problem}", fix)
    if not hub:
        return
    try:
        description_folder(model)
    except InputError as error:
        raise InputError(key, error) from error


def description_folder(path: str | Path) -> Path:
    """Return a model's folder as `local_folder` does, but download no weights.

    A few small files show a mistyped name at once, where transformers would try six times before
    its error. Raises `InputError` for a hub model that cannot be downloaded.
    """
    folder = Path(path).expanduser()
    return folder if folder.is_dir() else _download(str(path))


def _download(name: str, *weights: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    fixes = {
        GatedRepoError: "accept its terms on the hub, and set HF_TOKEN",
        RepositoryNotFoundError: "the hub has no such model: check the name, or set HF_TOKEN for "
        "a private one",
        LocalEntryNotFoundError: "it is not in the cache, and the hub cannot be reached: check "
        "the name and the network",
    }
    try:
        return Path(snapshot_download(name, allow_patterns=[*_DESCRIPTION, *weights]))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        fix = next((text for kind, text in fixes.items() if isinstance(error, kind)), None)
        raise InputError(
            name,
            f"is neither a local folder nor to be had from the hub ({type(error).__name__}): "
            f"{fix or 'check the name and the network'}",
        ) from error
