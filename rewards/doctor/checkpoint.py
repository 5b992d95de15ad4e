"""Check a checkpoint's files: its family, the tensors of its head, and how its scores spread.

Each finding names the tensor or config key that it was read from.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from rewards.checkpoints.checkpoint import (
    read_config,
    read_tensors,
    tensor_shapes,
    weight_files,
)
from rewards.checkpoints.families import FAMILIES, architecture_of, recognise
from rewards.checkpoints.heads import SUMMARY, bare_names, find_head
from rewards.checkpoints.published import find_published
from rewards.checkpoints.record import RECORD, recorded_kind
from rewards.doctor.finding import Finding, note, ok, wrong
from rewards.doctor.model_under_test import ModelUnderTest
from rewards.doctor.samples import SAMPLES
from rewards.evaluation.stats import spearman
from rewards.types import Family
from rollout.types import InputError

__all__ = [
    "check_family",
    "check_head",
    "check_spread",
    "family_of",
]

_GATING = ("regression_layer.", "gating.", "reward_transform_matrix")
_LISTED = 4  # more than these go into one line
_RETRAIN = "take the checkpoint from its source again, or train it"


def check_head(folder: Path) -> Iterator[Finding]:
    """Check that each tensor of the head is finite, not constant, and not as drawn at random."""
    yield from _files(folder)
    said = read_config(folder).get("initializer_range")
    initial = said if isinstance(said, float) else 0.02
    tensors = _head_tensors(folder)
    findings = [_judged(name, tensor, initial) for name, tensor in tensors.items()]
    fine = [finding for finding in findings if finding.level == "ok"]
    if len(fine) <= _LISTED:
        yield from fine
    else:
        yield ok("head", f"{len(fine)} tensors, {_norms(tensors)}")
    yield from (finding for finding in findings if finding.level != "ok")


def check_spread(model: ModelUnderTest) -> Iterator[Finding]:
    """Check that scores of the built-in conversations are finite and not all equal."""
    readable = model.readable(SAMPLES)
    if readable.reasons:
        yield note("samples", f"{len(readable.reasons)} skipped: {readable.reasons[0]}")
    talks = [SAMPLES[index] for index in readable.kept]
    if not talks:
        yield wrong("scores", "no built-in conversation can be scored", "see the line above")
        return
    scores = model.score(talks)
    missing = int((~np.isfinite(scores)).sum())
    if missing:
        yield wrong(
            "scores",
            f"{missing} of {len(scores)} built-in conversations score NaN or infinity",
            "look at the head above; try --dtype float32, float16 overflows in some models",
            missing=missing,
        )
    finite_N = np.isfinite(scores)
    if finite_N.sum() > 1:
        words_N = np.array([len(talk[-1]["content"].split()) for talk in talks])
        yield _spread(scores[finite_N], words_N[finite_N])


def _spread(scores: np.ndarray, words: np.ndarray) -> Finding:
    spread, size = float(np.ptp(scores)), float(np.abs(scores).max())
    detail = f"{len(scores)} built-in conversations: {scores.min():.3g} to {scores.max():.3g}"
    if spread <= 1e-6 * size or spread == 0:
        return wrong("scores", f"{detail}: all the same", _RETRAIN, spread=spread)
    rank = spearman(scores, words)
    return ok(
        "scores",
        f"{detail}, mean {scores.mean():.3g}, standard deviation {scores.std(ddof=1):.3g}; rank "
        f"correlation with the response's length {rank:+.2f} (--data measures it on yours)",
        spread=spread, length_spearman=rank,
    )  # fmt: skip


def _norms(tensors: dict[str, torch.Tensor]) -> str:
    weights = {n: float(t.float().norm()) for n, t in tensors.items() if not n.endswith("bias")}
    return "norms: " + ", ".join(f"{name} {norm:.3g}" for name, norm in weights.items())


def _judged(name: str, tensor: torch.Tensor, initial: float) -> Finding:
    what = "head"
    values = tensor.float()
    bad = int((~values.isfinite()).sum())
    norm = float(values.norm())
    std = float(values.std(correction=0))
    shape = f"{name} {list(values.shape)}"
    detail = f"{shape}, norm {norm:.3g}, standard deviation {std:.3g}"
    if bad:
        return wrong(what, f"{shape}: {bad} values are not finite", _RETRAIN, bad=bad)
    if name.endswith("bias") or values.numel() < 2 or name == "reward_transform_matrix":
        return ok(what, detail, norm=norm)
    if norm == 0:
        return wrong(what, f"{detail}: all zeros, every score is the same", _RETRAIN, norm=norm)
    if std <= 1e-6 * norm:
        return wrong(what, f"{detail}: every weight is the same number", _RETRAIN, norm=norm)
    drawn = _as_drawn(name, values, std, initial)
    if drawn:
        return note(
            what,
            f"{detail}: {drawn}; untrained, or trained with a small learning rate",
            "look at the accuracy on pairs",
            norm=norm,
        )
    if len(values) > len(values.unique(dim=0)):
        return note(what, f"{detail}: some of its rows are equal", norm=norm)
    return ok(what, detail, norm=norm)


def _as_drawn(name: str, values: torch.Tensor, std: float, initial: float) -> str:
    """Return how an untrained head is drawn, in words, where this tensor has just that spread.

    Return "" where it has another.
    """
    if name.startswith("score."):
        expected, how = initial, f"as transformers draws it (initializer_range {initial:g})"
    else:
        bound = 1 / math.sqrt(values.shape[-1])
        if float(values.abs().max()) > bound:
            return ""
        expected, how = bound / math.sqrt(3), "as torch draws a linear layer"
    # the standard error of a standard deviation is its 1/sqrt(2n)
    near = 4 / math.sqrt(2 * values.numel())
    return how if abs(std / expected - 1) < near else ""


def _files(folder: Path) -> Iterator[Finding]:
    """Check that no tensor is in two weight files: which one is used would depend on the reader."""
    files = weight_files(folder)
    names = Counter(name for file in files for name in _names(file))
    twice = sorted(name for name, count in names.items() if count > 1)
    detail = f"{len(names)} tensors in {len(files)} file{'s' if len(files) > 1 else ''}"
    if twice:
        yield wrong("weights", f"{detail}: {twice[0]} is in more than one of them", _RETRAIN)
    elif files[0].suffix == ".safetensors" and any(folder.glob("pytorch_model*.bin")):
        yield note("weights", f"{detail}; the .bin files beside the safetensors are not read")
    else:
        yield ok("weights", detail)


def _head_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of the head by their names without wrappers, sorted."""
    shapes = tensor_shapes(folder)
    names = bare_names(shapes, _GATING) or find_head(folder, read_config(folder), shapes).names
    names = names or bare_names(shapes, ("classifier.",))
    found = read_tensors(folder, set(names.values()))
    return {bare: found[names[bare]] for bare in sorted(names)}


def _names(file: Path) -> list[str]:
    if file.suffix != ".safetensors":
        return list(torch.load(file, map_location="meta", weights_only=True))
    with safe_open(file, framework="pt") as tensors:
        return list(tensors.keys())


def family_of(path: str | Path, folder: Path, kind: Family | None) -> Family | None:
    """Return the family as `load_reward` decides it; None where the files do not tell."""
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
    """Report the family, what it was recognised by, and the published settings of its name."""
    family = family_of(path, folder, kind)
    if family is None:
        try:
            recognise(folder)
        except InputError as error:
            yield wrong("family", str(error), "name the folder of a reward model, or give --family")
        return
    yield ok("family", f"{FAMILIES[family]}, {_why(path, folder, kind, family)}")
    yield from _published(path, family)
    if read_config(folder).get("score_type") == "cost":
        problem = "a cost model (score_type in its config): a higher score is worse"
        yield note("score", problem, "give it a weight of -1 in a combination")


def _why(path: str | Path, folder: Path, kind: Family | None, family: Family) -> str:
    if kind is not None:
        return "as you say"
    if family == "pairwise" and recorded_kind(folder) == "pairwise":
        return f"by its {RECORD}"
    if family == "pairwise":
        return f"by its published name {(find_published(path) or ('',))[0]}; its files do not tell"
    config, shapes = read_config(folder), tensor_shapes(folder)
    architecture = architecture_of(config) or "unnamed"
    if family == "grm":
        return f"by the tensor {next(n for n in sorted(shapes) if SUMMARY in n)}"
    if family == "armorm":
        heads = bool(bare_names(shapes, _GATING))
        return f"by the tensors of its heads and {architecture}" if heads else f"by {architecture}"
    left_over = sorted(key for key in config if key.startswith("vhead_"))
    also = f"; {left_over[0]} in its config is left over from a GRM" if left_over else ""
    head = next(iter(find_head(folder, config, shapes).names.values()), None)
    return f"by {architecture}{f' with {head} {list(shapes[head])}' if head else ''}{also}"


def _published(path: str | Path, family: Family) -> Iterator[Finding]:
    found = find_published(path)
    if found is None:
        return
    name, known = found
    settings = [
        f"{key}={value}"
        for key in ("format", "bos", "eos", "dtype", "max_length")
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
