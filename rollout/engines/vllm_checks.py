"""What goes wrong with vLLM and is the user's to fix: memory, options, checkpoints with holes."""

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
    "tensor_names",
]

# where a GPU is too full: vLLM's words, what they mean, what helps
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
# tied heads, and buffers that newer files have no more
_NO_WEIGHT = re.compile(r"(^|\.)(lm_head\.weight|inv_freq|masked_bias|attn\.bias|attention\.bias)$")


@contextlib.contextmanager
def options_as_input_error() -> Generator[None]:
    """An option that vLLM does not know, by its name."""
    try:
        yield
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise InputError(
            "policy.vllm", f"has an option that vLLM does not know ({one_line(error)})", "remove it"
        ) from error


def tensor_names(folder: str) -> set[str]:
    """Of a local folder's weights; none where they are not in safetensors files."""
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
    """The same without tied heads and buffers, which a policy may do without."""
    return {name for name in tensor_names(folder) if not _NO_WEIGHT.search(name)}


def check_complete(folder: str, before: set[str]) -> set[str]:
    """The names of the tensors in `folder`, if all are there that were `before`.

    vLLM keeps the old values of those that a reload does not find, and says so in its log alone.

    Raises:
        InputError: some are not.
    """
    now = tensor_names(folder)
    # checkpoints of others lack the prefix of the family, and have buffers and tied heads
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
    """Of every tensor, or of adapters and of all others together; None where vLLM has packed
    weights out of sight, as it does in float32 on a CPU."""
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
    """What vLLM says where memory is short, as the setting that helps; a share of None: no GPU."""
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
