"""The configs of the five recipes, as mappings that `raft train-reward` reads from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.reward_models.attributes import ATTRIBUTES
from experiments.reward_models.backbone import FRESH, LANGUAGE_MODEL
from experiments.reward_models.pairs import HELD_OUT, TRAIN

__all__ = ["NAMES", "RATED", "base_of", "settings"]

NAMES = ("bradley_terry", "hh", "pairwise", "armorm", "grm")
RATED = "rated.jsonl"
_BASES = {"hh": FRESH, "armorm": "bradley_terry"}
_COMMON: dict[str, Any] = {"schedule": "cosine", "warmup_ratio": 0.1, "batch_size": 32}
_RECIPES: dict[str, dict[str, Any]] = {
    "bradley_terry": {
        "format": "chat",
        "bos": "single",
        "train": {**_COMMON, "learning_rate": 3e-4, "epochs": 1},
    },
    # text format and limits are the recipe's own
    "hh": {
        "sft": {
            "learning_rate": 2e-3, "epochs": 2, "batch_size": 8, "chunk": 512, "weight_decay": 0.1,
        },
        "train": {**_COMMON, "learning_rate": 3e-4, "epochs": 1},
    },
    "pairwise": {
        "pairwise": {"orders": "both"},
        "train": {**_COMMON, "learning_rate": 5e-4, "epochs": 2},
    },
    "armorm": {
        "armorm": {
            "rated": [RATED],
            "attributes": list(ATTRIBUTES),
            "verbosity": None,
            "gating": {"hidden_dim": 64, "n_hidden": 1, "steps": 1000, "batch_size": 256},
        },
    },
    "grm": {
        "grm": {"alpha": 0.01, "head_neurons": 128},
        "train": {
            **_COMMON, "learning_rate": 3e-4, "epochs": 1, "gradient_checkpointing": False,
            "max_grad_norm": 5.0,
        },
    },
}  # fmt: skip


def base_of(name: str) -> str:
    """Return the name of the folder that a recipe starts from."""
    return _BASES.get(name, LANGUAGE_MODEL)


def settings(name: str, folder: Path, seed: int) -> dict[str, Any]:
    """Return the config of recipe `name`; the experiment's `folder` holds data and base models."""
    base = base_of(name)
    own = {key: value for key, value in _RECIPES[name].items() if key != "armorm"}
    if name == "armorm":
        section = _RECIPES[name]["armorm"]
        own["armorm"] = {**section, "rated": [str(folder / one) for one in section["rated"]]}
    return {
        "run_dir": str(folder / name),
        "seed": seed,
        "recipe": name,
        "model": str(folder / base / ("" if base == FRESH else "model")),
        "data": [str(folder / TRAIN)],
        "eval": {"data": [str(folder / HELD_OUT)]},
        **own,
    }
