"""The size of a model, from its config.json alone: transformers builds it without any memory.

Where the config.json of a name is not on this machine, the name is one of the published models
below, or the hub is asked, which sends a few kilobytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rewards.checkpoints.hub import check_model, description_folder
from rollout.errors import InputError
from rollout.text.printable import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn
    from transformers import PreTrainedConfig

__all__ = ["ModelSize", "UnknownSizeError", "model_size"]

Kind = Literal["causal", "backbone"]
# the errors that model classes raise for settings that they do not take
_NO_MODEL = (
    ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, NotImplementedError,
)  # fmt: skip

_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "dtype": "float16",
    "max_position_embeddings": 2048,
}
_LLAMA3 = _LLAMA | {
    "dtype": "bfloat16", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "max_position_embeddings": 8192,
}  # fmt: skip
_OPEN_LLAMA = _LLAMA | {
    "hidden_size": 3200, "intermediate_size": 8640, "num_hidden_layers": 26,
    "num_attention_heads": 32, "vocab_size": 32000,
}  # fmt: skip
# settings in the config.json on the hub, of the models that configs/ name
_PUBLISHED: dict[str, Mapping[str, Any]] = {
    "EleutherAI/gpt-neo-2.7B": {
        "model_type": "gpt_neo", "hidden_size": 2560, "num_layers": 32, "num_heads": 20,
        "attention_types": [[["global", "local"], 16]], "vocab_size": 50257,
        "max_position_embeddings": 2048,
    },
    "huggyllama/llama-7b": _LLAMA | {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "vocab_size": 32000,
    },
    "meta-llama/Meta-Llama-3-8B-Instruct": _LLAMA3,
    "RLHFlow/ArmoRM-Llama3-8B-v0.1": _LLAMA3 | {"vocab_size": 128257},
    "sfairXC/FsfairX-LLaMA3-RM-v0.1": _LLAMA3 | {"vocab_size": 128257},
    "RLHFlow/pair-preference-model-LLaMA3-8B": _LLAMA3,
    "openlm-research/open_llama_3b": _OPEN_LLAMA,
    "weqweasdas/hh_rlhf_rm_open_llama_3b": _OPEN_LLAMA,
    "google/gemma-2b-it": {
        "model_type": "gemma", "dtype": "bfloat16", "hidden_size": 2048, "num_hidden_layers": 18,
        "intermediate_size": 16384, "num_attention_heads": 8, "num_key_value_heads": 1,
        "head_dim": 256, "vocab_size": 256000, "max_position_embeddings": 8192,
    },
    "meta-llama/Llama-3.2-3B-Instruct": _LLAMA3 | {
        "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
        "num_attention_heads": 24, "tie_word_embeddings": True, "max_position_embeddings": 131072,
    },
    "mistralai/Mistral-7B-Instruct-v0.2": {
        "model_type": "mistral", "dtype": "bfloat16", "hidden_size": 4096, "vocab_size": 32000,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "max_position_embeddings": 32768, "sliding_window": None,
    },
}  # fmt: skip


class UnknownSizeError(InputError):
    """The size of a model cannot be determined here; the model itself may be good."""


@dataclass(frozen=True)
class ModelSize:
    """The figures from which the memory of a model is computed.

    Attributes:
        elements: the number of all weights; tied ones count once.
        ends: how many of these are in the embedding and the vocabulary's head.
        inner: width of the layers' feed-forward part.
        kv_width: width of the keys of a token in one layer, and of its values.
        saved_bytes: bytes of an element in the model's files.
        linear: (name, inputs, outputs) of the layers that adapters may wrap.
    """

    name: str
    model_type: str
    elements: int
    ends: int
    layers: int
    hidden: int
    inner: int
    vocabulary: int
    kv_width: int
    context: int | None
    saved_bytes: int
    linear: tuple[tuple[str, int, int], ...]

    @property
    def kv(self) -> int:
        """Elements of the keys and values of one token."""
        return 2 * self.layers * self.kv_width

    def adapted(self, target_modules: str | Sequence[str]) -> list[tuple[int, int]]:
        """Return (inputs, outputs) of the layers that peft wraps for `target_modules`."""

        def wanted(name: str) -> bool:
            if target_modules == "all-linear":
                return True
            if isinstance(target_modules, str):
                return re.fullmatch(target_modules, name) is not None
            return any(name == one or name.endswith(f".{one}") for one in target_modules)

        return [(inputs, outputs) for name, inputs, outputs in self.linear if wanted(name)]

    def adapters(self, r: int, target_modules: str | Sequence[str]) -> int:
        """Return the number of elements in LoRA's matrices of rank `r`."""
        return sum(r * (inputs + outputs) for inputs, outputs in self.adapted(target_modules))


@cache
def model_size(model: str, key: str, kind: Kind = "causal", *, hub: bool = True) -> ModelSize:
    """Return the size of a folder's or a hub name's model, without loading its weights.

    Args:
        key: the config key that errors name.
        kind: "backbone" has no head over the vocabulary, as scalar reward models.
        hub: ask the hub where no config.json is on this machine.

    Raises:
        UnknownSizeError: its config.json cannot be read or describes no known architecture.
    """
    import torch
    import transformers

    config = _config(model, key, hub)
    builder: Any = transformers.AutoModelForCausalLM if kind == "causal" else transformers.AutoModel
    try:
        with torch.device("meta"):
            built = builder.from_config(config)
    except _NO_MODEL as error:
        problem = f"transformers builds no model from the config.json of {model}"
        raise UnknownSizeError(key, f"{problem} ({one_line(error)})") from error
    return _measured(model, config, built)


def _measured(name: str, config: PreTrainedConfig, built: nn.Module) -> ModelSize:
    text: Any = config.get_text_config()
    heads = int(text.num_attention_heads)
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    parts: Any = built
    embedding, head = parts.get_input_embeddings(), parts.get_output_embeddings()
    ends = {id(one.weight): one.weight.numel() for one in (embedding, head) if one is not None}
    inner = ("intermediate_size", "n_inner", "ffn_dim")
    stored = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
    return ModelSize(
        name=name,
        model_type=str(config.model_type),
        elements=sum(one.numel() for one in built.parameters()),
        ends=sum(ends.values()),
        layers=int(text.num_hidden_layers),
        hidden=int(text.hidden_size),
        inner=next((n for key in inner if (n := getattr(text, key, None))), 4 * text.hidden_size),
        vocabulary=int(text.vocab_size),
        kv_width=int(kv_heads * head_dim),
        context=getattr(text, "max_position_embeddings", None),
        saved_bytes=4 if stored == "float32" else 2,
        linear=tuple(_linear(built, head)),
    )


def _linear(built: nn.Module, head: object) -> list[tuple[str, int, int]]:
    """Return (name, inputs, outputs) of the layers that adapters may wrap.

    GPT-2's layers, whose weights are transposed, are among them; the vocabulary's head never is.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    found: list[tuple[str, int, int]] = []
    for name, module in built.named_modules():
        if module is head or not isinstance(module, nn.Linear | Conv1D):
            continue
        rows, columns = module.weight.shape
        found.append((name, rows, columns) if isinstance(module, Conv1D) else (name, columns, rows))
    return found


def _config(model: str, key: str, hub: bool) -> PreTrainedConfig:
    from huggingface_hub import try_to_load_from_cache
    from transformers import AutoConfig

    from rewards.checkpoints.loading import load_config

    folder = Path(model).expanduser()
    check_model(model, key, adapters=True, hub=False)
    try:
        if folder.is_dir():
            return load_config(folder)
        cached = try_to_load_from_cache(model, "config.json")
        if isinstance(cached, str):
            return load_config(Path(cached).parent)
        if model in _PUBLISHED:
            configs: Any = AutoConfig  # its options have no types
            return configs.for_model(**_PUBLISHED[model])
        if hub:
            return load_config(description_folder(model))
    except InputError as error:
        fix = "give a folder with the model's config.json; its weights are not needed"
        raise UnknownSizeError(key, f"the size of {model} is not known ({error})", fix) from error
    fix = "download it, or give a folder that has it; its weights are not needed"
    raise UnknownSizeError(key, f"the config.json of {model} is not on this machine", fix)
