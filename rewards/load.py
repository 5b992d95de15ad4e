"""`load_reward`: from a path or a hub name to a reward model, with the settings it was made for."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from rewards.bos import Bos
from rewards.families import Family, check_family, recognise, refuse_unsupported
from rewards.formats import Format
from rewards.published import Published, find_published
from rewards.source import local_folder
from rewards.truncation import TruncationSide
from rewards.types import NonFinite
from rollout.types import InputError

if TYPE_CHECKING:
    from rewards.classifier import ClassifierReward

__all__ = ["load_reward"]

log = logging.getLogger("rewards")

ENGINES = ("transformers",)


def load_reward(
    path: str | Path,
    *,
    kind: Family | None = None,
    format: Format | None = None,
    bos: Bos | None = None,
    engine: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    truncation_side: TruncationSide = "left",
    separator: str = "",
    non_finite: NonFinite = "raise",
) -> ClassifierReward:
    """Load the reward model in a local folder or on the hub.

    The family is found from the files; settings left at None come from what is known of published
    models, then from the files. `format` is "chat", "hh" or "plain"; `bos` is the exact number of
    BOS tokens, "single", "double" or "none"; `max_length` cuts longer conversations on
    `truncation_side`; `separator` goes between the turns of "hh".

    Raises `InputError` for a missing or unsuitable checkpoint or setting. No remote code is run.
    """
    if engine not in (None, *ENGINES):
        raise InputError(f"engine={engine!r} cannot score with reward models: use transformers")
    if kind is not None:
        check_family(kind)
        refuse_unsupported(kind, str(path))
    known = _known(path)
    folder = _folder(path, kind, known)
    # a pairwise model is a language model like any other: only its name tells
    found = kind or ("pairwise" if known.family == "pairwise" else recognise(folder))
    refuse_unsupported(found, str(path))

    from rewards.load_classifier import load_classifier  # loads torch and transformers

    return load_classifier(
        folder,
        name=str(path),
        format=format or known.format,
        bos=bos or known.bos,
        dtype=dtype or _published_dtype(known, device),
        device=device,
        max_length=max_length,
        batch_tokens=batch_tokens,
        truncation_side=truncation_side,
        separator=separator,
        non_finite=non_finite,
    )


def _folder(path: str | Path, kind: Family | None, known: Published) -> Path:
    """The model's folder; what is known not to be supported is refused before a download."""
    if not Path(path).expanduser().is_dir():
        refuse_unsupported(kind or known.family, str(path))
    return local_folder(path)


def _known(path: str | Path) -> Published:
    found = find_published(path)
    if found is None:
        return Published("classifier")
    name, settings = found
    log.info("%s: using the published settings of %s: %s", path, name, settings)
    return settings


def _published_dtype(known: Published, device: str | None) -> str | None:
    """Published dtypes are for GPUs; on a CPU the loader's own choice, float32, is exact."""
    if known.dtype is None or device == "cpu":
        return None
    import torch

    on_gpu = device not in (None, "auto") or torch.cuda.is_available()
    return known.dtype if on_gpu else None
