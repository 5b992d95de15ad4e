"""Train an ArmoRM: ridge regression on rated attributes, then a gate trained on preference pairs.

Wang et al. 2024 (arXiv 2406.12845). The transformer is frozen, so its hidden states are extracted
into files once and both stages read those.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from rewards.build import Place
from rewards.combine.debias import penalty_matrix
from rewards.data.pair import Pair
from rewards.data.rated import Rated
from rewards.training.armorm_features import (
    ArmoRMSettings,
    Features,
    are_extracted,
    load_frozen,
    load_reading,
    load_states,
    readable,
)
from rewards.training.card import held_out_accuracy
from rewards.training.export import ArmoRMHeads, export_armorm
from rewards.training.features import StateReader
from rewards.training.gating import fit_gating
from rewards.training.ridge import RidgeFit, fit_attributes, label_matrix, varying_labels
from rewards.training.settings import GatingSettings
from rewards.training.trainer import OnMetrics
from rollout.types import InputError

__all__ = [
    "ArmoRMSettings",
    "extract_states",
    "train_armorm",
]

log = logging.getLogger("rewards")


# rows of features in memory at once
_BLOCK = 4096


def train_armorm(
    base: str | Path,
    rated: Sequence[Rated],
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    folder: str | Path,
    *,
    settings: ArmoRMSettings | None = None,
    gating: GatingSettings | None = None,
    on_metrics: OnMetrics | None = None,
) -> dict[str, object]:
    """Train both stages on the frozen transformer of `base`, leave the model in `folder`/model.

    States go to `folder`/features and stay there: a killed run continues from them, and another
    gate can be trained without the transformer. They take 4·H bytes per rated conversation and 16·H
    per pair; half of that as float16.

    Args:
        rated: for the regression; any conversation may lack any attribute.
        pairs: for the gate and, both sides of them, for the penalties on verbosity.
        held_out: used for the evaluation at the end alone.

    Returns metrics: accuracy on `held_out` with its 95 % interval, that of uniform weights beside
    it, counts, and per attribute labels, α, errors of the regression and penalty.

    Raises `InputError` for data, models or settings that do not fit.
    """
    settings, gating, folder = (
        settings or ArmoRMSettings(),
        gating or GatingSettings(),
        Path(folder),
    )
    _targets(rated, pairs, settings)  # raises for wrong data before the model is read
    frozen = load_frozen(base, settings)
    reading, reader = frozen.reading, StateReader(frozen.backbone, settings.batch_tokens)
    rated, pairs, held_out = readable(reading.encoder, settings.on_bad_row, rated, pairs, held_out)
    names, labels_NK = _targets(rated, pairs, settings)
    features = Features(reader, reading, folder / "features", settings)
    rated_N1H, sides_S2H, held_S2H = features.of_all(rated, pairs, held_out)
    _check_some_fit(rated_N1H, sides_S2H, held_S2H, reading.longest)
    fits = _regressed(rated_N1H, labels_NK, names, settings, frozen.device)
    report = _reporter(on_metrics, gating.steps)
    heads = _gated(sides_S2H, fits, names, settings, gating, frozen.device, report)
    margins_P, _ = _margins(heads, sides_S2H)
    found: dict[str, object] = {
        **_counted("rated", "train", _lost(rated_N1H)),
        **_counted("pairs", "train", np.isnan(margins_P)),
        "train/accuracy": _share_won(margins_P),
    }
    if held_S2H is not None:
        found |= _judged(heads, held_S2H, held_out, settings)
    encoder = reading.encoder
    export_armorm(folder / "model", frozen.backbone.model, encoder, heads, frozen.file_dtype)
    log.info("trained ArmoRM in %s: %s", folder / "model", found)
    return {
        **found,
        "attributes": _by_attribute(heads, fits),
        "gating": asdict(gating),
        "reading": {"format": encoder.format, "bos": encoder.bos},
    }


def extract_states(
    base: str | Path,
    rated: Sequence[Rated],
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    folder: str | Path,
    settings: ArmoRMSettings,
    place: Place,
) -> None:
    """Extract the states that `train_armorm` continues from, wherever `place` has the model."""
    _targets(rated, pairs, settings)
    reading, where = load_reading(base, settings), Path(folder) / "features"
    data = readable(reading.encoder, settings.on_bad_row, rated, pairs, held_out)
    if not are_extracted(where, data[2]):
        Features(place(partial(load_states, base, settings)), reading, where, settings).of_all(
            *data
        )


def _targets(
    rated: Sequence[Rated], pairs: Sequence[Pair], settings: ArmoRMSettings
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the checked names (K,) and labels (N, K) of the regression. Raises `InputError`."""
    names, labels_NK = label_matrix(rated, settings.attributes, settings.leave_out_unlabelled)
    names, labels_NK = varying_labels(names, labels_NK, settings.leave_out_unlabelled)
    _check(names, settings.verbosity, pairs)
    return names, labels_NK


def _regressed(
    rated_N1H: np.ndarray,
    labels_NK: np.ndarray,
    names: Sequence[str],
    settings: ArmoRMSettings,
    device: str,
) -> list[RidgeFit]:
    """Run the first stage: fit each attribute on the states of the last tokens."""
    return fit_attributes(
        rated_N1H[:, 0],
        labels_NK,
        names,
        alphas=settings.alphas,
        validation_share=settings.validation_share,
        seed=settings.seed,
        device=device,
    )


def _gated(
    sides_S2H: np.ndarray,
    fits: Sequence[RidgeFit],
    names: Sequence[str],
    settings: ArmoRMSettings,
    gating: GatingSettings,
    device: str,
    report: Callable[[int, float], None],
) -> ArmoRMHeads:
    """Run the second stage: compute the penalties, then train the gate."""
    regression_KH = np.stack([fit.weight_H for fit in fits]).astype(np.float32)
    rewards_SK = _rewards(sides_S2H, regression_KH)
    transform_KK = _transform(rewards_SK, names, settings)
    gate = fit_gating(
        sides_S2H[0::2, 0],
        (rewards_SK[0::2] - rewards_SK[1::2]) @ transform_KK,
        gating,
        seed=settings.seed,
        device=device,
        report=report,
    )
    return ArmoRMHeads(regression_KH, transform_KK, gate, names)


def _rewards(sides_S2H: np.ndarray, regression_KH: np.ndarray) -> np.ndarray:
    """Return the rewards (S, K) of S = 2P responses, NaN where one was too long."""
    blocks = [
        np.asarray(sides_S2H[start : start + _BLOCK, 1], dtype=np.float32) @ regression_KH.T
        for start in range(0, len(sides_S2H), _BLOCK)
    ]
    return np.concatenate(blocks)


def _transform(
    rewards_SK: np.ndarray, names: Sequence[str], settings: ArmoRMSettings
) -> np.ndarray:
    if settings.verbosity is None:
        return np.eye(len(names), dtype=np.float32)
    known_SK = rewards_SK[~np.isnan(rewards_SK).any(axis=1)]
    place = list(names).index(settings.verbosity)
    return penalty_matrix(known_SK, place, threshold=settings.threshold).astype(np.float32)


def _margins(heads: ArmoRMHeads, sides_S2H: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return s_c − s_r (P,) as in `rewards.models.armorm_head`, and with uniform weights.

    NaN for a pair with a side that was too long.
    """
    adjusted_SK = _rewards(sides_S2H, heads.regression_KH) @ heads.transform_KK
    device, weights = heads.gate.logit_scale.device, []
    with torch.inference_mode():
        for start in range(0, len(sides_S2H), _BLOCK):
            block = np.array(sides_S2H[start : start + _BLOCK, 0], dtype=np.float32)
            weights.append(heads.gate(torch.from_numpy(block).to(device)).cpu().numpy())
    scores_S = (np.concatenate(weights) * adjusted_SK).sum(axis=1)
    uniform_S = adjusted_SK.mean(axis=1)
    return scores_S[0::2] - scores_S[1::2], uniform_S[0::2] - uniform_S[1::2]


def _judged(
    heads: ArmoRMHeads, sides_S2H: np.ndarray, held_out: Sequence[Pair], settings: ArmoRMSettings
) -> dict[str, float]:
    margins_P, uniform_P = _margins(heads, sides_S2H)
    known_P = margins_P[~np.isnan(margins_P)]
    return {
        **held_out_accuracy(margins_P, held_out, seed=settings.seed),
        "eval/loss": float(np.logaddexp(0, -known_P).mean()),
        "eval/uniform_accuracy": _share_won(uniform_P),
        **_counted("pairs", "held_out", np.isnan(margins_P)),
    }


def _share_won(margins_P: np.ndarray) -> float:
    return float((margins_P[~np.isnan(margins_P)] > 0).mean())


def _counted(unit: str, what: str, lost_N: np.ndarray) -> dict[str, int]:
    """Return the metrics that count items used and items that are too long."""
    lost = int(lost_N.sum())
    return {f"{unit}/{what}": len(lost_N) - lost, f"{unit}/{what}_too_long": lost}


def _check_some_fit(
    rated_N1H: np.ndarray, sides_S2H: np.ndarray, held_S2H: np.ndarray | None, longest: int | None
) -> None:
    """Check, before training, that some data fit. Raises `InputError` where all are too long."""
    sides = {"training pairs": sides_S2H, "held-out pairs": held_S2H}
    lost = {what: _lost(states).reshape(-1, 2).any(axis=1)
            for what, states in sides.items() if states is not None}  # fmt: skip
    for what, lost_N in {"rated responses": _lost(rated_N1H), **lost}.items():
        if lost_N.all():
            raise InputError(
                "max_length",
                f"no {what} are left of {lost_N.size}: {lost_N.size} longer than {longest} tokens",
                "use a larger one, or a model that takes more",
            )


def _lost(states_NQH: np.ndarray) -> np.ndarray:
    """Return which rows (N,) were too long: their states are NaN."""
    return np.isnan(states_NQH[:, 0, 0])


def _by_attribute(heads: ArmoRMHeads, fits: Sequence[RidgeFit]) -> dict[str, dict[str, float]]:
    # λ of each attribute: how much of verbosity M subtracts; of verbosity itself, 1
    penalties_K = (np.eye(len(fits)) - heads.transform_KK).max(axis=0)
    return {
        name: {
            "labels": fit.fitted + fit.held_out,
            "alpha": fit.alpha,
            "error": fit.error,
            "error_of_mean": fit.error_of_mean,
            "penalty": penalty,
        }
        for name, fit, penalty in zip(heads.attributes, fits, penalties_K.tolist(), strict=True)
    }


def _check(names: Sequence[str], verbosity: str | None, pairs: Sequence[Pair]) -> None:
    if verbosity is not None and verbosity not in names:
        raise InputError(
            f"verbosity={verbosity!r}",
            f"is none of the attributes {', '.join(names)}",
            "name the one that rates length, or none (null) to leave penalties out",
        )
    if not pairs:
        raise InputError("pairs", "there are no preference pairs, which the gate is trained on")


def _reporter(on_metrics: OnMetrics | None, steps: int) -> Callable[[int, float], None]:
    every = max(1, steps // 20)

    def report(step: int, loss: float) -> None:
        if on_metrics is not None and (step % every == 0 or step == steps):
            on_metrics(step, {"train/loss": loss})

    return report
