"""Which kind of reward model a folder holds. Tensor names decide; config keys may be left over.

A GRM that was fine-tuned into a plain classifier keeps `vhead_*` keys in its config, for example.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from rewards.checkpoint import read_config, tensor_shapes
from rollout.types import InputError

__all__ = ["FAMILIES", "Family", "check_family", "recognise", "refuse_unsupported"]

Family = Literal["classifier", "armorm", "grm", "pairwise"]
FAMILIES: dict[Family, str] = {
    "classifier": "a sequence classifier (Bradley–Terry)",
    "armorm": "ArmoRM",
    "grm": "GRM",
    "pairwise": "a pairwise preference model",
}
ARMORM = "LlamaForRewardModelWithGating"


def check_family(kind: str) -> None:
    """Raises `InputError` for an unknown kind."""
    if kind not in FAMILIES:
        raise InputError(f"kind={kind!r} is unknown: use one of {', '.join(FAMILIES)}")


def refuse_unsupported(family: Family, name: str) -> None:
    """Raises `InputError` for families that are recognised but not implemented."""
    if family != "classifier":
        raise InputError(f"{name} is recognised as {FAMILIES[family]}; not supported yet")


def recognise(folder: Path) -> Family:
    """The family of the model in `folder`. Raises `InputError` when it is no reward model."""
    config = read_config(folder)
    names = tensor_shapes(folder).keys()
    if _is_armorm(config, names):
        return "armorm"
    if any("v_head.summary" in name for name in names):
        return "grm"
    architecture = _architecture(config)
    if architecture.endswith("ForSequenceClassification"):
        return "classifier"
    if architecture.endswith("ForCausalLM"):
        raise InputError(
            f"{folder} is a language model ({architecture}) without a reward head: "
            'if it is a pairwise preference model, say so with kind="pairwise"'
        )
    raise InputError(
        f"{folder} is no known reward model (architecture {architecture or 'unnamed'})"
    )


def _is_armorm(config: Mapping[str, Any], names: Collection[str]) -> bool:
    named = ARMORM in _architecture(config) or ARMORM in str(config.get("auto_map", ""))
    keyed = "num_objectives" in config and "gating_temperature" in config
    heads = "regression_layer.weight" in names and "gating.layers.0.weight" in names
    return named or keyed or heads


def _architecture(config: Mapping[str, Any]) -> str:
    architectures = config.get("architectures") or [""]
    return str(architectures[0])
