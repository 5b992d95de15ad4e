"""A trained GRM as a folder that `load_reward` reads: a language model with `v_head.*` tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewards.encoding import Encoder
from rewards.training.export import export_model
from rewards.training.grm_objective import GRMSettings
from rewards.training.pair_objective import base_of
from rewards.training.record import write_record

__all__ = ["export_grm", "head_keys"]


def export_grm(
    model: Any, encoder: Encoder, folder: Path, settings: GRMSettings, *, attention: str | None
) -> None:
    """Weights with adapters merged, the value head under published names, config keys that its own
    class reads, tokenizer, and `reward.json`. There is no `auto_map`: no Python file goes along.
    """
    for key, value in head_keys(settings).items():
        setattr(base_of(model).config, key, value)

    def finish(partial: Path) -> None:
        write_record(partial, encoder.describe(), recipe="grm")

    export_model(model, encoder.tokenizer, folder, attention=attention, finish=finish)


def head_keys(settings: GRMSettings) -> Mapping[str, Any]:
    """What GRM's wrapper class builds the head from, in config.json."""
    return {
        "vhead_layer_type": "mlp" if settings.head_layers else "linear",
        "vhead_num_layers": settings.head_layers,
        "vhead_num_neurons": settings.head_neurons,
        "vhead_num_output": 1,
        "summary_dropout_prob": settings.head_dropout,
    }
