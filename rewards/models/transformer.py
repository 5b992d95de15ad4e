"""The transformer under a head that transformers has no class for, loaded without remote code."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rewards.checkpoints.checkpoint import WRAPPED, read_tensors
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


def check_engine(settings: ModelSettings, head: str, name: str) -> None:
    """Raises `InputError` for an engine that cannot run a `head` of our own."""
    if settings.engine == "vllm":
        raise InputError(
            name,
            f"vLLM cannot serve a {head} head: use engine: transformers (or auto)",
        )


def state_size(config: PreTrainedConfig) -> int:
    """H, the size of the last hidden state."""
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
    """The decoder that `config.model_type` names; `architectures` and `auto_map` have no say.

    `heads` are the beginnings of tensor names that belong to the head. Raises `InputError` when a
    tensor of the transformer is missing, or one would be left out of the scores.
    """
    from transformers import AutoModel

    with _quiet():  # its report calls every head unexpected; ours follows
        model, unexpected = load_weights(
            AutoModel, folder, config, dtype, key_mapping={WRAPPED: ""}
        )
    check_left_out(folder, model, unexpected, tuple(heads))
    return model.to(device)


def stored_dtype(folder: Path) -> torch.dtype | None:
    """Of a Llama's weights in its files; None where they have other names."""
    witness = read_tensors(folder, {_WITNESS}).get(_WITNESS)
    return None if witness is None else witness.dtype


def dtype_as_stored(
    folder: Path, asked: str | None, config: PreTrainedConfig, device: torch.device
) -> torch.dtype:
    """As `resolve_dtype`, but on a GPU by the files: ArmoRM's published config.json says float32 of
    bfloat16 weights."""
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
