"""Where a model's files are: a local folder, or the hub's cache after a download."""

from __future__ import annotations

import re
from pathlib import Path

from rollout.types import InputError

__all__ = ["local_folder"]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_DESCRIPTION = ("*.json", "*.jinja", "*.model", "*.txt")


def local_folder(path: str | Path) -> Path:
    """The folder of a model given by path or hub name.

    From the hub come configuration, tokenizer and safetensors; `.bin` only where there are no
    safetensors; never Python files. Raises `InputError` when neither place has it.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if _HUB_NAME.fullmatch(str(path)) is None:
        raise InputError(f"no folder {path}: give a local model folder or a hub name (owner/name)")
    return _download(str(path))


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        patterns = [*_DESCRIPTION, "*.safetensors"]
        folder = Path(snapshot_download(name, allow_patterns=patterns))
        if not any(folder.glob("*.safetensors")):
            patterns = [*_DESCRIPTION, "pytorch_model*.bin"]
            folder = Path(snapshot_download(name, allow_patterns=patterns))
        return folder
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(
            f"{name} is neither a local folder nor to be had from the hub "
            f"({type(error).__name__}): check the name, the network, and the access token"
        ) from error
