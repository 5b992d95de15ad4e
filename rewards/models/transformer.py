"""The transformer under a head that transformers has no class for, loaded without remote code."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rewards.checkpoints.checkpoint import (
    adapter_task,
    read_tensors,
    tensor_shapes,
    transformer_folder,
)
from rewards.checkpoints.loading import check_left_out, load_weights, resolve_dtype
from rewards.checkpoints.settings import ModelSettings
from rollout.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = [
    "check_engine", "dtype_as_stored", "load_transformer", "state_size", "stored_dtype",
]  # fmt: skip

log = logging.getLogger("rewards")

# a tensor of every Llama
_WITNESS = "model.layers.0.self_attn.q_proj.weight"
# what torch.compile, FSDP and activation checkpointing put anywhere into a name
_WRAPPER = r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
_TASKS = {"SEQ_CLS": "ForSequenceClassification", "CAUSAL_LM": "ForCausalLM"}
# heads of classes that an adapter was trained with; the head of a reward model is read separately
_HEADS = ("score.", "classifier.", "lm_head.")


def check_engine(settings: ModelSettings, head: str, name: str) -> None:
    """Check that the engine runs heads of our own. Raises `InputError` for vLLM, naming `head`."""
    if settings.engine == "vllm":
        raise InputError(
            name,
            f"vLLM cannot serve a {head} head: use engine: transformers (or auto)",
        )


def state_size(config: PreTrainedConfig) -> int:
    """Return H, the size of the last hidden state."""
    text = config.get_text_config()
    # some OPT models project their states back to the size of the embedding
    return int(getattr(text, "word_embed_proj_dim", None) or text.hidden_size)


def load_transformer(
    folder: Path,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    heads: Iterable[str],
) -> Any:
    """Load the decoder that `config.model_type` names, whatever `architectures` and `auto_map` say.

    `heads` are the beginnings of tensor names that belong to the head. Raises `InputError` when a
    tensor of the transformer is missing, or one would be left out of the scores.
    """
    import transformers

    names = list(tensor_shapes(transformer_folder(folder)))
    auto = getattr(transformers, f"AutoModel{_task(folder, names)}")
    with _quiet():  # transformers reports every head as unexpected; our own check follows
        model, unexpected = load_weights(
            auto, folder, config, dtype, new=_HEADS, key_mapping=_renames(names, config)
        )
    check_left_out(folder, model.base_model, unexpected, tuple(heads))
    return model.base_model.to(device)


def _task(folder: Path, names: Iterable[str]) -> str:
    """Return the suffix of the class that an adapter was trained with: it names that class's
    layers. Return "" where there is no adapter, or it names those of the bare transformer."""
    adapted = adapter_task(folder)
    if adapted is None:
        return ""
    whole = any(name.startswith(("model.", "transformer.", "gpt_neox.")) for name in names)
    return _TASKS.get(adapted, "ForCausalLM" if whole else "")


def _renames(names: Iterable[str], config: PreTrainedConfig) -> dict[str, str]:
    """Return patterns, each mapped to "", of what wrappers have put into tensor names.

    These are modules of torch, and the prefix that stands before the embedding's own name.
    """
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(config)
    embedding = model.get_input_embeddings()
    own = next(name for name, module in model.named_modules() if module is embedding) + ".weight"
    most = max((len(re.findall(_WRAPPER, name)) for name in names), default=0)
    # transformers applies each pattern once: equal ones must be written differently
    renames = {f"{'(?:)' * number}{_WRAPPER}": "" for number in range(most)}
    bare = [re.sub(_WRAPPER, "", name) for name in names]
    before = {name.removesuffix(own) for name in bare if f".{name}".endswith(f".{own}")}
    if len(before) == 1 and (prefix := before.pop()) not in ("", f"{model.base_model_prefix}."):
        renames[f"^{re.escape(prefix)}"] = ""
    return renames


def stored_dtype(folder: Path) -> torch.dtype | None:
    """Return the dtype of a Llama's weights in its files; None where they have other names."""
    witness = read_tensors(folder, {_WITNESS}).get(_WITNESS)
    return None if witness is None else witness.dtype


def dtype_as_stored(
    folder: Path, asked: str | None, config: PreTrainedConfig, device: torch.device
) -> torch.dtype:
    """Return the dtype that `resolve_dtype` gives, but on a GPU, unless one is asked for, that of
    the files: ArmoRM's published config.json says float32 of bfloat16 weights."""
    stored = stored_dtype(folder) if asked is None and device.type != "cpu" else None
    return stored or resolve_dtype(asked, config, device)


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging as theirs

    level = theirs.get_verbosity()
    theirs.set_verbosity_error()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
