"""Find the family of a reward model in a folder, by its tensor names.

Config keys may be left over: a GRM that was fine-tuned into a plain classifier keeps its `vhead_*`
keys, for example.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from rewards.checkpoints.checkpoint import read_config, tensor_shapes
from rewards.checkpoints.heads import SUMMARY, bare_names, find_head, heads_in_words
from rewards.checkpoints.record import recorded_kind
from rewards.types import Family
from rollout.data.jsonl import is_list
from rollout.types import InputError

__all__ = ["FAMILIES", "architecture_of", "check_family", "recognise"]

FAMILIES: dict[Family, str] = {
    "classifier": "a sequence classifier (Bradley–Terry)",
    "armorm": "ArmoRM",
    "grm": "GRM",
    "pairwise": "a pairwise preference model",
}
# whole names: models with other heads have a class of a longer name
ARMORM = re.compile(r"\bLlamaForRewardModelWithGating\b")
GRM = re.compile(r"\bAutoModelForCausalLMWithValueHead\b")


def check_family(kind: str) -> None:
    """Check that `kind` is a family of `FAMILIES`. Raises `InputError` where it is not."""
    if kind not in FAMILIES:
        raise InputError(f"kind={kind!r}", "is unknown", f"use one of {', '.join(FAMILIES)}")


def recognise(folder: Path) -> Family:
    """Return the family of the model in `folder`.

    Raises `InputError` when it is no reward model, or a GRM whose value head was not saved.
    """
    config, shapes = read_config(folder), tensor_shapes(folder)
    if _is_armorm(config, shapes):
        return "armorm"
    if _is_grm(config, shapes):
        return "grm"
    architecture = architecture_of(config)
    if architecture.endswith("ForTokenClassification"):
        raise InputError(folder, f"gives a number per token ({architecture}), and no score")
    classifier = architecture.endswith("ForSequenceClassification")
    if classifier or find_head(folder, config, shapes).names:
        return "classifier"
    marker = _grm_marker(config)
    if marker is not None:
        raise InputError(
            folder,
            f"is a GRM by its config.json ({marker}), but has no v_head tensor: its value "
            "head was not saved with it, and would be drawn at random",
            "copy or save it again",
        )
    # a judge has the files of any language model; only the record of one trained here tells
    if architecture.endswith("ForCausalLM") and recorded_kind(folder) == "pairwise":
        return "pairwise"
    others = heads_in_words(shapes)
    if architecture.endswith("ForCausalLM"):
        raise InputError(
            folder,
            f"is a language model ({architecture}) without a reward head, {others}: a pairwise "
            'preference model compares: load_judge(…, kind="pairwise"), `raft rank '
            "--judge`, or reward.kind: pairwise",
        )
    raise InputError(
        folder,
        f"is no known reward model (architecture {architecture or 'unnamed'}): {others}",
    )


def _is_grm(config: Mapping[str, object], names: Collection[str]) -> bool:
    """Return whether the head is a GRM's: its layers are numbered, or the config has a mark of GRM.

    TRL's and LLaMA-Factory's heads have one linear layer of the same name, and no such mark.
    """
    heads = [name for name in names if f"{SUMMARY}." in name]
    layers = any(re.search(rf"{re.escape(SUMMARY)}\.\d", name) for name in heads)
    return layers or (bool(heads) and _grm_marker(config) is not None)


def _is_armorm(config: Mapping[str, object], names: Collection[str]) -> bool:
    named = f"{architecture_of(config)} {config.get('auto_map', '')}"
    keyed = "num_objectives" in config and "gating_temperature" in config
    wanted = ("regression_layer.weight", "gating.layers.0.weight")
    heads = bare_names(names, wanted).keys() == set(wanted)
    return ARMORM.search(named) is not None or keyed or heads


def _grm_marker(config: Mapping[str, object]) -> str | None:
    """Return the key of config.json that marks a GRM: "auto_map" or a `vhead_*`; None if absent."""
    if GRM.search(str(config.get("auto_map", ""))):
        return "auto_map"
    return next((key for key in config if key.startswith("vhead_")), None)


def architecture_of(config: Mapping[str, object]) -> str:
    """Return the first of the `architectures` in config.json; "" where it names none."""
    architectures = config.get("architectures")
    return str(architectures[0]) if is_list(architectures) and architectures else ""
