"""Load a policy with transformers, and refuse one whose weights are not all there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from rollout.errors import InputError
from rollout.text.printable import one_line

if TYPE_CHECKING:
    import torch

__all__ = ["changed_weights", "checksum", "load_causal_lm", "same_weights"]

# what vLLM makes one tensor of
_FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
_AT_A_TIME = 2**22  # numbers of a checksum: each takes 16 bytes for a moment


def load_causal_lm(path: str, dtype: torch.dtype) -> Any:
    """The causal language model in a folder or of a hub name.

    Raises:
        InputError: its files are damaged, or lack tensors, which would be made up at random.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    models: Any = AutoModelForCausalLM
    try:
        model, found = models.from_pretrained(path, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError) as error:
        reason = f"cannot be loaded ({type(error).__name__}: {one_line(error)})"
        raise InputError(
            path,
            reason,
            "restore its files; a checkpoint of a run may be deleted, "
            "and the same command trains it again",
        ) from error
    if missing := sorted(found["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            path,
            f"has no weights for {missing[0]}{more}: they would be random",
            "give a whole causal language model",
        )
    return model


def checksum(tensor: torch.Tensor) -> int:
    """Of all its bits and their places, computed where it is; another where one bit is another."""
    import torch

    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    flat: Any = tensor.detach().reshape(-1).view(whole[tensor.element_size()])
    found = 0
    for part in flat.split(_AT_A_TIME):
        odd = torch.arange(1, 2 * len(part), 2, device=part.device)
        found = (found * 1_000_003 + int((part.long() * odd).sum())) % 2**64
    return found


def changed_weights(first: str, second: str, dtype: str, names: Iterable[str]) -> set[str]:
    """Which of an engine's tensors have other values in the second folder than in the first, once
    they are rounded to `dtype`. Those whose files cannot be told by their names are none of them.
    """
    one, other = (_Tensors(folder) for folder in (first, second))
    found: set[str] = set()
    for name in names:
        parts = [part for part in _own_names(name) if part in one.files and part in other.files]
        if not all(one.same(part, other, dtype) for part in parts):
            found.add(name)
    return found


def same_weights(first: str, second: str, dtype: str) -> bool:
    """Whether the weights in two folders are the same once they are rounded to `dtype`, adapters
    included; False where they are not in safetensors files."""
    one, other = (_Tensors(folder) for folder in (first, second))
    same_names = bool(one.files) and one.files.keys() == other.files.keys()
    return same_names and all(one.same(name, other, dtype) for name in one.files)


def _own_names(name: str) -> list[str]:
    """What checkpoints call the parts of an engine's tensor."""
    for whole, parts in _FUSED.items():
        if f".{whole}." in name:
            return [name.replace(whole, part) for part in parts]
    return [name]


class _Tensors:
    """Those of a folder's safetensors files, read one at a time."""

    def __init__(self, folder: str) -> None:
        from safetensors import safe_open

        self._open: Any = safe_open
        self.files: dict[str, Path] = {}
        for file in sorted(Path(folder).glob("**/*.safetensors")):
            with self._open(file, framework="pt") as opened:
                self.files |= dict.fromkeys(opened.keys(), file)

    def same(self, name: str, other: _Tensors, dtype: str) -> bool:
        import torch

        ours, theirs = (tensors._rounded(name, dtype) for tensors in (self, other))
        return torch.equal(ours, theirs)

    def _rounded(self, name: str, dtype: str) -> torch.Tensor:
        import torch

        with self._open(self.files[name], framework="pt") as opened:
            return opened.get_tensor(name).to(getattr(torch, dtype))
