"""`load_judge`: from a path or a hub name to a pairwise judge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rewards.checkpoint import read_config, tensor_shapes
from rewards.engine import EngineName
from rewards.families import FAMILIES, Family, check_family, recognise
from rewards.load import known_settings
from rewards.settings import ModelSettings
from rewards.source import local_folder
from rewards.types import NonFinite
from rollout.types import InputError

if TYPE_CHECKING:
    from rewards.judge import PairwiseJudge

__all__ = ["load_judge"]


def load_judge(
    path: str | Path,
    *,
    kind: Literal["pairwise"] | None = None,
    engine: EngineName | None = None,
    dtype: str | None = None,
    device: str | None = None,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    gpu_memory: float | None = None,
    temperature: float = 1.0,
    non_finite: NonFinite = "raise",
) -> PairwiseJudge:
    """Load the pairwise preference model in a local folder or on the hub.

    Its files look like any language model's: unless it is a published one, or one that
    `raft train-reward` made, say kind="pairwise".
    `max_length` (the model's own limit by default) cuts the beginning of contexts, never responses;
    `gpu_memory` is the share of a GPU that vLLM may take; `temperature` divides the log-odds.

    Raises `InputError` for a missing or unsuitable checkpoint or setting. No remote code is run.
    """
    settings = ModelSettings(
        engine=engine or "auto",
        dtype=dtype,
        device=device,
        max_length=max_length,
        batch_tokens=batch_tokens,
        non_finite=non_finite,
    )
    if kind is not None:
        check_family(kind)
    known, settings = known_settings(path, settings)
    family: Family | None = kind or known
    _refuse_reward(family, str(path))
    folder = local_folder(path)
    _check_language_model(folder, said=family is not None)
    # loads torch and transformers
    from rewards.load_pairwise import load_pairwise

    return load_pairwise(
        folder, settings, name=str(path), temperature=temperature, gpu_memory=gpu_memory
    )


def _refuse_reward(family: Family | None, name: str) -> None:
    if family not in (None, "pairwise"):
        raise InputError(
            f"{name} is {FAMILIES[family]}: it scores and does not compare; use load_reward, "
            "or reward.kind: model"
        )


def _check_language_model(folder: Path, *, said: bool) -> None:
    """A language model is a judge when somebody says so; a reward model never is."""
    tensor_shapes(folder)  # its own message where there are no weights
    try:
        family = recognise(folder)
    except InputError:
        architectures = read_config(folder).get("architectures") or [""]
        if said and str(architectures[0]).endswith("ForCausalLM"):
            return
        raise
    _refuse_reward(family, str(folder))
