"""Load a policy with transformers, and refuse one whose weights are not all there."""

from __future__ import annotations

from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from rollout.errors import InputError
from rollout.text.printable import one_line

if TYPE_CHECKING:
    import torch

__all__ = ["load_causal_lm"]


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
