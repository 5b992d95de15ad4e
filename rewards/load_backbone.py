"""The transformer under a head that transformers has no class for, loaded without remote code."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rewards.parts import check_left_out, load_weights
from rewards.settings import ModelSettings
from rewards.state import WRAPPED
from rollout.types import InputError

__all__ = ["check_engine", "load_transformer", "state_size"]

log = logging.getLogger("rewards")


def check_engine(settings: ModelSettings, head: str, name: str) -> None:
    """Raises `InputError` for an engine that cannot run a `head` of our own."""
    if settings.engine == "vllm":
        raise InputError(
            f"{name}: vLLM cannot serve a {head} head: use engine: transformers (or auto)"
        )


def state_size(config: Any) -> int:
    """H, the size of the last hidden state."""
    text = config.get_text_config()
    # some OPT models project their states back to the size of the embedding
    return int(getattr(text, "word_embed_proj_dim", None) or text.hidden_size)


def load_transformer(
    folder: Path, config: Any, dtype: torch.dtype, device: torch.device, *, heads: Iterable[str]
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


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging as theirs

    level = theirs.get_verbosity()
    theirs.set_verbosity_error()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
