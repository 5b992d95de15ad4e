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

__all__ = ["checksum", "load_causal_lm", "same_weights"]

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


def checksum(tensors: Iterable[torch.Tensor]) -> int:
    """Of all their bits and places, computed where they are; another where one bit is another."""
    import torch

    found = 0
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    for tensor in tensors:
        flat: Any = tensor.detach().reshape(-1).view(whole[tensor.element_size()])
        sums: list[torch.Tensor] = [
            (part.long() * torch.arange(1, 2 * len(part), 2, device=part.device)).sum()
            for part in flat.split(_AT_A_TIME)
        ]
        together: Any = torch.stack(sums)
        for one in together.tolist():
            found = (found * 1_000_003 + one) % 2**64
    return found


def same_weights(first: str, second: str, dtype: str) -> bool:
    """Whether the weights in two folders are the same once they are rounded to `dtype`, adapters
    included; False where they are not in safetensors files."""
    import torch
    from safetensors import safe_open

    opener: Any = safe_open
    rounded = getattr(torch, dtype)

    def where(folder: str) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for file in sorted(Path(folder).glob("**/*.safetensors")):
            with opener(file, framework="pt") as opened:
                found |= dict.fromkeys(opened.keys(), file)
        return found

    def value(name: str, file: Path) -> Any:
        with opener(file, framework="pt") as opened:
            return opened.get_tensor(name).to(rounded)

    one, other = where(first), where(second)
    return (
        bool(one)
        and one.keys() == other.keys()
        and all(torch.equal(value(name, one[name]), value(name, other[name])) for name in one)
    )
