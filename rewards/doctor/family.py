"""Which family a checkpoint belongs to, and the tensor or config key that says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rewards.checkpoint import read_config, tensor_shapes
from rewards.doctor.finding import Finding, note, ok, wrong
from rewards.families import FAMILIES, Family, recognise
from rewards.published import find_published
from rewards.training.record import RECORD, recorded_kind
from rollout.types import InputError

__all__ = ["check_family", "family_of"]


def family_of(path: str | Path, folder: Path, kind: Family | None) -> Family | None:
    """As `load_reward` decides; None where the files say nothing."""
    if kind is not None:
        return kind
    published = find_published(path)
    if published is not None and published[1].family == "pairwise":
        return "pairwise"  # its files look like any language model's
    try:
        return recognise(folder)
    except InputError:
        return None


def check_family(path: str | Path, folder: Path, kind: Family | None) -> Iterator[Finding]:
    """What it is taken for, and the published settings that its name brings."""
    family = family_of(path, folder, kind)
    if family is None:
        try:
            recognise(folder)
        except InputError as error:
            yield wrong("family", str(error), "name the folder of a reward model, or give --family")
        return
    yield ok("family", f"{FAMILIES[family]}, {_why(path, folder, kind, family)}")
    yield from _published(path, family)


def _why(path: str | Path, folder: Path, kind: Family | None, family: Family) -> str:
    if kind is not None:
        return "as you say"
    if family == "pairwise" and recorded_kind(folder) == "pairwise":
        return f"by its {RECORD}"
    if family == "pairwise":
        return f"by its published name {(find_published(path) or ('',))[0]}; its files do not tell"
    config, shapes = read_config(folder), tensor_shapes(folder)
    architecture = str((config.get("architectures") or ["unnamed"])[0])
    if family == "grm":
        return f"by the tensor {next(n for n in sorted(shapes) if 'v_head.summary' in n)}"
    if family == "armorm":
        heads = "regression_layer.weight" in shapes and "gating.layers.0.weight" in shapes
        return f"by the tensors of its heads and {architecture}" if heads else f"by {architecture}"
    left_over = sorted(key for key in config if key.startswith("vhead_"))
    also = f"; {left_over[0]} in its config is left over from a GRM" if left_over else ""
    head = shapes.get("score.weight")
    return f"by {architecture}{f' with score.weight {list(head)}' if head else ''}{also}"


def _published(path: str | Path, family: Family) -> Iterator[Finding]:
    found = find_published(path)
    if found is None:
        return
    name, known = found
    settings = [
        f"{key}={value}"
        for key in ("format", "bos", "dtype", "max_length")
        if (value := getattr(known, key)) is not None
    ]
    detail = f"{name}: {', '.join(settings) or 'its family'} as its authors use it"
    if known.family == family:
        yield ok("published as", detail)
        return
    yield note(
        "published as",
        f"{detail}; but that one is {FAMILIES[known.family]}, and these files are not",
        "rename the folder if it is another model, or check what was downloaded",
    )
