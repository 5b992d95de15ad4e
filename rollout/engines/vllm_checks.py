"""Errors of vLLM that the user can fix: memory, options, incomplete checkpoints; its tensors."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.engines.causal_lm import checksum
from rollout.errors import InputError
from rollout.text.printable import one_line

if TYPE_CHECKING:
    import torch

__all__ = [
    "check_complete",
    "checksums_of",
    "memory_as_input_error",
    "names_of_weights",
    "options_as_input_error",
    "repack_tied_head",
    "tensor_names",
]

# errors of a GPU that is too full: pattern of vLLM's message, problem, fix
_SHORT_OF_MEMORY = (
    (
        "Free memory on device .* less than desired",
        "which others hold",
        "lower it, end what else uses the GPU (nvidia-smi names it), or give engines GPUs of their "
        "own: cluster.placement: separate",
    ),
    (
        "No available memory for the cache blocks",
        "which the weights alone take up",
        "raise it, lower policy.max_num_seqs, or raise policy.tensor_parallel",
    ),
    (
        "out of memory",
        "and the GPU is full at the start",
        "raise it where the GPU has room, lower policy.max_num_seqs, or raise "
        "policy.tensor_parallel",
    ),
)
# tied heads, and buffers that newer files no longer hold
_NO_WEIGHT = re.compile(r"(^|\.)(lm_head\.weight|inv_freq|masked_bias|attn\.bias|attention\.bias)$")


@contextlib.contextmanager
def options_as_input_error() -> Generator[None]:
    """Turn vLLM's TypeError for an unknown option into an InputError that names the option."""
    try:
        yield
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise InputError(
            "policy.vllm", f"has an option that vLLM does not know ({one_line(error)})", "remove it"
        ) from error


def tensor_names(folder: str) -> set[str]:
    """Return the names of a local folder's tensors; none where there are no safetensors files."""
    from safetensors import safe_open

    opener: Any = safe_open  # it has no types
    home = Path(folder)
    index = home / "model.safetensors.index.json"
    if index.is_file():
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    else:
        files = {"model.safetensors", "adapter_model.safetensors"}
    names: set[str] = set()
    for file in files:
        if (home / file).is_file():
            with opener(home / file, framework="np") as opened:
                names |= set(opened.keys())
    return names


def names_of_weights(folder: str) -> set[str]:
    """Return the `tensor_names` of a folder without tied heads and buffers, which it may lack."""
    return {name for name in tensor_names(folder) if not _NO_WEIGHT.search(name)}


def check_complete(folder: str, before: set[str]) -> set[str]:
    """Check that `folder` holds the tensors named in `before`, and return its tensors' names.

    A reload leaves tensors that it does not find at their old values, which vLLM only logs.

    Raises:
        InputError: a tensor is missing that is no tied head or buffer.
    """
    now = tensor_names(folder)
    # checkpoints of other programs may lack the prefix of the architecture
    bare = {name.partition(".")[2] for name in now} | now
    kept = {name for name in before if not _NO_WEIGHT.search(name)}
    missing = sorted(one for one in kept if one not in bare and one.partition(".")[2] not in bare)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            folder,
            f"has no weights for {missing[0]}{more}, which the policy had before",
            "delete it: the same command trains it again",
        )
    return now or before


def checksums_of(model: torch.nn.Module, adapters: bool) -> dict[str, int] | None:
    """Return the checksums of a model's tensors by their names.

    With `adapters` there is one for each adapter tensor, and "base" is the sum of all others. None
    where vLLM has packed weights elsewhere, as it does in float32 on a CPU.
    """
    weights = {name.replace(".base_layer", ""): one for name, one in model.named_parameters()}
    if not all(one.numel() for one in weights.values()):
        return None
    found = {name: checksum(one) for name, one in weights.items()}
    if not adapters:
        return found
    found = {"base": sum(found.values()) % 2**64}
    whole: Any = model
    for name, module in whole.named_modules():
        for side in ("lora_a_stacked", "lora_b_stacked"):
            parts = getattr(module, side, ())
            found |= {f"{name}.{side}.{n}": checksum(part) for n, part in enumerate(parts)}
    return found


@contextlib.contextmanager
def memory_as_input_error(gpu_memory: float | None) -> Generator[None]:
    """Turn vLLM's errors of too little memory into InputErrors that name the setting to change.

    `gpu_memory` is the engine's share of the GPU, None without one. Other errors pass.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        said = one_line(error)
        for pattern, problem, fix in _SHORT_OF_MEMORY if gpu_memory is not None else ():
            if re.search(pattern, said):
                said = re.split(r"\.(?= |$)", said)[0]
                problem = f"is {gpu_memory:g} of a GPU, {problem} ({said})"
                raise InputError("policy.gpu_memory", problem, fix) from error
        if not re.search("KV cache|cache blocks", said):
            raise
        raise InputError(
            "policy.max_model_len", f"too long for the memory there is ({said})"
        ) from error


def repack_tied_head(model: torch.nn.Module) -> None:
    """Pack a tied `lm_head` again: on a CPU a reload leaves its packed copy unchanged."""
    config = getattr(model, "config", None)
    head: Any = getattr(model, "lm_head", None)
    if head is not None and getattr(config, "tie_word_embeddings", False):
        head.quant_method.process_weights_after_loading(head)
