"""Whether a checkpoint has every tensor of its model, for engines that do not tell."""

from __future__ import annotations

from pathlib import Path

from rewards.checkpoint import tensor_shapes
from rewards.parts import load_config
from rollout.types import InputError

__all__ = ["check_tensors"]


def check_tensors(folder: Path, auto_class: str) -> None:
    """Compare names with a model of transformers' `auto_class` that has no memory behind it.

    vLLM merges some tensors (gate and up, query, key and value), counts the merged one as loaded
    when one part was, and would compute with whatever the memory of the others held.

    Raises `InputError` naming a tensor that is not there.
    """
    import torch
    import transformers

    with torch.device("meta"):
        model = getattr(transformers, auto_class).from_config(load_config(folder))
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    missing = sorted(set(model.state_dict()) - set(tensor_shapes(folder)) - set(tied))
    if missing:
        raise InputError(
            f"{folder} lacks the tensor {missing[0]} ({len(missing)} in all), or has it under "
            "another name: copy it again, or use engine: transformers"
        )
