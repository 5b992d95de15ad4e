"""Chosen tensors of a checkpoint, by name: heads that no class of transformers knows."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewards.checkpoint import weight_files
from rollout.types import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["WRAPPED", "bare_name", "bare_names", "check_names", "read_tensors"]

# what wrappers of a language model (TRL's value-head models, PEFT) put before its tensor names
WRAPPED = r"^(?:pretrained_model\.|base_model\.model\.)+"


def bare_name(name: str) -> str:
    """The name of a tensor without what wrapper classes put in front."""
    return re.sub(WRAPPED, "", name)


def bare_names(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Bare name -> name in the files. Raises `InputError` when two tensors share a bare name."""
    found: dict[str, str] = {}
    for name in names:
        bare = bare_name(name)
        if bare in found:
            raise InputError(f"{folder} has both {found[bare]} and {name}: remove one of them")
        found[bare] = name
    return found


def check_names(folder: Path, found: Collection[str], wanted: Collection[str], head: str) -> None:
    """Raises `InputError` unless the tensors of a `head` are exactly those that are wanted."""
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InputError(
            f"{folder} lacks the tensor {missing[0]} of its {head} head: copy or save it again"
        )
    extra = sorted(set(found) - set(wanted))
    if extra:
        raise InputError(
            f"{folder} has the tensor {extra[0]}, which its {head} head has no use for"
        )


def read_tensors(folder: Path, names: Collection[str]) -> dict[str, torch.Tensor]:
    """The tensors `names` on the CPU, in the dtype of the files; those not there are left out.

    Nothing else is read from safetensors files, and no code is run from `.bin` files.
    """
    found: dict[str, torch.Tensor] = {}
    for file in weight_files(folder):
        read = _read_safetensors if file.suffix == ".safetensors" else _read_pickled
        found.update(read(file, names))
    return found


def _read_safetensors(file: Path, names: Collection[str]) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        there = tensors.keys()
        return {name: tensors.get_tensor(name) for name in there if name in names}


def _read_pickled(file: Path, names: Collection[str]) -> dict[str, Any]:
    import torch

    state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    return {name: tensor.clone() for name, tensor in state.items() if name in names}
