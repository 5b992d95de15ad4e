"""A trained ArmoRM as a folder that `load_reward` reads, under the published names."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rewards.encoding import Encoder
from rewards.load_armorm import ATTRIBUTES, REGRESSION, TRANSFORM
from rewards.training.gating_fit import GatingMLP
from rewards.training.record import write_record

__all__ = ["ArmoRMHeads", "export_armorm"]

ARCHITECTURE = "LlamaForRewardModelWithGating"


@dataclass(frozen=True)
class ArmoRMHeads:
    """K rewards: regression (K, H), M (K, K), the gate, and their names."""

    regression_KH: np.ndarray
    transform_KK: np.ndarray
    gate: GatingMLP
    attributes: Sequence[str]


def export_armorm(
    folder: Path, transformer: Any, encoder: Encoder, heads: ArmoRMHeads, dtype: torch.dtype | None
) -> None:
    """Write transformer, heads (float32, as published), config.json and tokenizer to `folder`,
    which appears whole or not at all.

    `dtype` is that of the files the transformer came from: its weights, which were frozen, go back
    to it where that loses nothing. There is no `auto_map`: no Python file goes along.
    """
    gate = heads.gate
    tensors = {
        f"model.{name}": _stored_as(tensor, dtype)
        for name, tensor in transformer.state_dict().items()
    }
    tensors[REGRESSION] = torch.from_numpy(heads.regression_KH)
    tensors[TRANSFORM] = torch.from_numpy(heads.transform_KK)
    tensors |= {f"gating.{name}": tensor.float() for name, tensor in gate.state_dict().items()}
    keys = {
        "architectures": [ARCHITECTURE],
        "num_objectives": len(heads.attributes),
        "gating_temperature": gate.temperature,
        # of a gate without hidden layers the first layer is the last
        "gating_hidden_dim": len(tensors["gating.layers.0.weight"]),
        "gating_n_hidden": len(gate.layers) - 1,
        ATTRIBUTES: list(heads.attributes),
    }
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an attempt that died
    partial.mkdir(parents=True)
    _write_config(partial, transformer.config, keys)
    _write_tensors(partial, tensors)
    encoder.tokenizer.save_pretrained(partial)
    reading = {"format": encoder.format, "bos": encoder.bos}
    write_record(partial, reading, recipe="armorm", attributes=list(heads.attributes))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _stored_as(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """The tensor in `dtype` if that holds it exactly, else as it is."""
    if dtype is None or not tensor.is_floating_point():
        return tensor
    cast = tensor.to(dtype)
    return cast if torch.equal(cast.to(tensor.dtype), tensor) else tensor


def _write_config(folder: Path, config: Any, keys: Mapping[str, Any]) -> None:
    config.save_pretrained(folder)
    path = folder / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    for key in ("auto_map", "id2label", "label2id"):  # of the starting model
        written.pop(key, None)
    path.write_text(json.dumps({**written, **keys}, indent=2) + "\n", encoding="utf-8")


def _write_tensors(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """safetensors files, an index where there are several."""
    from huggingface_hub import save_torch_state_dict

    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_torch_state_dict(whole, folder, metadata={"format": "pt"})
