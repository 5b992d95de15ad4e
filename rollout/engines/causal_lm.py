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

# tensors of vLLM that fuse several of a checkpoint
_FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
_AT_A_TIME = 2**22  # elements that `checksum` reads at once; each takes 16 bytes meanwhile


def load_causal_lm(path: str, dtype: torch.dtype) -> Any:
    """Return the causal language model in a folder or of a hub name.

    Raises:
        InputError: its files are damaged, or lack tensors, which would be initialized at random.
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
    """Return a 64-bit checksum of the tensor, computed on its device.

    It depends on all bits and their places; a change of a single bit always changes it.
    """
    import torch

    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    flat: Any = tensor.detach().reshape(-1).view(whole[tensor.element_size()])
    found = 0
    for part in flat.split(_AT_A_TIME):
        odd = torch.arange(1, 2 * len(part), 2, device=part.device)
        found = (found * 1_000_003 + int((part.long() * odd).sum())) % 2**64
    return found


def changed_weights(first: str, second: str, dtype: str, names: Iterable[str]) -> set[str]:
    """Return those of an engine's tensors, by `names`, that differ between two folders' files.

    Values are compared after rounding to `dtype`. A tensor whose name is not in the files of both
    folders does not count as changed.
    """
    one, other = (_Tensors(folder) for folder in (first, second))
    found: set[str] = set()
    for name in names:
        parts = [part for part in _own_names(name) if part in one.files and part in other.files]
        if not all(one.same(part, other, dtype) for part in parts):
            found.add(name)
    return found


def same_weights(first: str, second: str, dtype: str) -> bool:
    """Return whether the weights in two folders are equal after rounding to `dtype`.

    Adapters are included. False where the first folder has no safetensors files.
    """
    one, other = (_Tensors(folder) for folder in (first, second))
    same_names = bool(one.files) and one.files.keys() == other.files.keys()
    return same_names and all(one.same(name, other, dtype) for name in one.files)


def _own_names(name: str) -> list[str]:
    """Return the names that checkpoints give to the parts of an engine's tensor."""
    for whole, parts in _FUSED.items():
        if f".{whole}." in name:
            return [name.replace(whole, part) for part in parts]
    return [name]


class _Tensors:
    """The tensors of a folder's safetensors files, read one at a time."""

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
