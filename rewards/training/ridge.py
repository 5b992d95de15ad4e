"""Fit rated attributes on frozen features by ridge regression, in closed form, without models.

ArmoRM's first stage (Wang et al. 2024, arXiv 2406.12845, and its released script): for attribute k
W_k = argmin_w Σ (wᵀz − y_k)² + α‖w‖² over the rows that have a label of k; no intercept; α from a
grid, by the squared error on a fifth of those rows, which is not fitted again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rewards.data.rated import Rated
from rewards.models.armorm_head import ARMORM_ATTRIBUTES
from rollout.types import InputError

__all__ = [
    "PUBLISHED_ALPHAS", "RidgeFit", "fit_attributes", "label_matrix", "ridge_path",
    "varying_labels",
]  # fmt: skip

log = logging.getLogger("rewards")

PUBLISHED_ALPHAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4)
# rows read from disk at once
_BLOCK = 4096
# of fewer labels, a fifth is less than a row
_FEWEST = 5


@dataclass(frozen=True, slots=True)
class RidgeFit:
    """One attribute: its weights (H,) in float64, the best α, rows fitted and held out.

    `error` is the mean squared error on the held-out rows, `error_of_mean` that of predicting the
    mean label of the fitted ones.
    """

    weight_H: NDArray[np.float64]
    alpha: float
    fitted: int
    held_out: int
    error: float
    error_of_mean: float


def label_matrix(
    rated: Sequence[Rated], attributes: Sequence[str] | None, leave_out_unlabelled: bool
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return K names, and labels (N, K) with NaN where there is none.

    Raises `InputError` for a label of an attribute that is not asked for, one that is no finite
    number, names given twice, no labels at all, and an attribute without any label unless
    `leave_out_unlabelled`.
    """
    seen = dict.fromkeys(name for one in rated for name in one.labels)
    names = tuple(
        attributes or (ARMORM_ATTRIBUTES if seen.keys() <= {*ARMORM_ATTRIBUTES} else seen)
    )
    unknown = [name for name in seen if name not in names]
    if unknown:
        raise InputError(
            "attributes",
            f"rows are rated for {unknown[0]!r}, which is none of {', '.join(names)}",
            "add it, or remove its labels",
        )
    if len(set(names)) < len(names):
        raise InputError("attributes", f"has a name twice: {', '.join(names)}")
    missing = [name for name in names if name not in seen]
    if missing and not leave_out_unlabelled:
        raise InputError(
            f"attribute {missing[0]!r}",
            f"no row is rated for it ({len(missing)} such in all)",
            "rate it, or set leave_out_unlabelled",
        )
    names = tuple(name for name in names if name in seen)
    if not names:
        raise InputError("rated", "no row has a label, so there is nothing to regress on")
    place = {name: index for index, name in enumerate(names)}
    labels_NK = np.full((len(rated), len(names)), np.nan, dtype=np.float32)
    for row, one in enumerate(rated):
        for name, value in one.labels.items():
            labels_NK[row, place[name]] = value
            if not np.isfinite(value):
                raise InputError(f"rated row {row}", f"{name} is {value}, no finite number")
    if np.nanmin(labels_NK) < 0 or np.nanmax(labels_NK) > 1:
        log.warning("labels are outside [0, 1]: penalties on verbosity presume a common scale")
    return names, labels_NK


def varying_labels(
    names: tuple[str, ...], labels_NK: np.ndarray, leave_out: bool
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return names and columns of the attributes whose labels differ: equal ones teach nothing.

    Raises `InputError` for an attribute whose labels are all equal unless `leave_out`, and where no
    other attribute is left.
    """
    lowest_K, highest_K = np.nanmin(labels_NK, axis=0), np.nanmax(labels_NK, axis=0)
    equal = np.flatnonzero(lowest_K == highest_K).tolist()
    about = [
        f"{names[k]!r} ({int((~np.isnan(labels_NK[:, k])).sum())} labels, all {lowest_K[k]:g})"
        for k in equal
    ]
    if equal and not (leave_out and len(equal) < len(names)):
        raise InputError(
            "attributes",
            "there is nothing to learn from the labels of the attribute "
            f"{about[0]}, {len(equal)} in all",
            "rate it by more than one value, or set leave_out_unlabelled",
        )
    if equal:
        log.warning("left out, for all their labels are equal: %s", ", ".join(about))
    kept = [k for k in range(len(names)) if k not in equal]
    return tuple(names[k] for k in kept), labels_NK[:, kept]


def fit_attributes(
    features_NH: np.ndarray,
    labels_NK: np.ndarray,
    attributes: Sequence[str],
    *,
    alphas: Sequence[float] = PUBLISHED_ALPHAS,
    validation_share: float = 0.2,
    seed: int = 0,
    device: str = "cpu",
) -> list[RidgeFit]:
    """Fit each of K attributes on its own rows.

    Args:
        features_NH: (N, H), mapped from a file perhaps; read in blocks. Rows with a NaN are not
            used.
        labels_NK: (N, K), NaN where a row has no label of an attribute.
        attributes: K names, for messages.
        device: where XᵀX is summed up, 2·N·H² operations in float64: most of the work.

    Raises `InputError` naming an attribute with fewer than 5 labels, for labels that do not fit,
    and for settings out of range.
    """
    labels_NK = _checked(features_NH, labels_NK, attributes, alphas, validation_share)
    known_N = np.concatenate([~np.isnan(block).any(axis=1) for block in _blocks(features_NH)])
    labelled_NK = ~np.isnan(labels_NK) & known_N[:, None]
    for name, count in zip(attributes, labelled_NK.sum(axis=0), strict=True):
        if count < _FEWEST:
            raise InputError(
                f"attribute {name!r}",
                f"has {count} labels, and needs {_FEWEST} or more (a row that was too long "
                "does not count)",
                "rate it, or leave it out",
            )
    fits: dict[int, RidgeFit] = {}
    # attributes of one data set are labelled on the same rows and share the costly part
    patterns = {labelled_NK[:, k].tobytes(): labelled_NK[:, k] for k in range(len(attributes))}
    for key, labelled_N in patterns.items():
        members = [k for k in range(len(attributes)) if labelled_NK[:, k].tobytes() == key]
        train_N, held_N = _split(labelled_N, validation_share, seed)
        found = _fit_group(features_NH, labels_NK[:, members], train_N, held_N, alphas, device)
        fits.update(zip(members, found, strict=True))
    return [fits[k] for k in range(len(attributes))]


def ridge_path(
    gram_HH: np.ndarray, moments_HK: np.ndarray, alphas: Sequence[float]
) -> NDArray[np.float64]:
    """Return solutions (A, H, K) of (G + αI) w = m for A values of α, by one decomposition of G."""
    values_H, vectors_HH = np.linalg.eigh(gram_HH)
    # XᵀX has no negative eigenvalues, but rounding can make some
    values_H = np.clip(values_H, 0, None)
    rotated_HK = vectors_HH.T @ moments_HK
    return np.stack([vectors_HH @ (rotated_HK / (values_H[:, None] + alpha)) for alpha in alphas])


def _fit_group(
    features_NH: np.ndarray,
    labels_NG: np.ndarray,
    train_N: np.ndarray,
    held_N: np.ndarray,
    alphas: Sequence[float],
    device: str,
) -> list[RidgeFit]:
    gram_HH, moments_HG = _normal_equations(features_NH, labels_NG, train_N, device)
    weights_AHG = ridge_path(gram_HH, moments_HG, alphas)
    errors_AG = _errors(features_NH, labels_NG, held_N, weights_AHG)
    means_G = labels_NG[train_N].mean(axis=0)
    of_means_G = ((labels_NG[held_N] - means_G) ** 2).mean(axis=0)
    best_G = errors_AG.argmin(axis=0)
    return [
        RidgeFit(
            weights_AHG[best, :, column].copy(), float(alphas[best]), int(train_N.sum()),
            int(held_N.sum()), float(errors_AG[best, column]), float(of_means_G[column]),
        )
        for column, best in enumerate(best_G.tolist())
    ]  # fmt: skip


def _normal_equations(
    features_NH: np.ndarray, labels_NG: np.ndarray, chosen_N: np.ndarray, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return XᵀX (H, H) and XᵀY (H, G) in float64, over the chosen rows."""
    size, groups = features_NH.shape[1], labels_NG.shape[1]
    sums_HS = torch.zeros(size, size + groups, dtype=torch.float64, device=device)
    for block_BH, labels_BG in _chosen(features_NH, labels_NG, chosen_N):
        block = torch.from_numpy(np.hstack([block_BH, labels_BG])).to(device)
        sums_HS.addmm_(block[:, :size].T, block)
    sums = sums_HS.cpu().numpy()
    return sums[:, :size], sums[:, size:]


def _errors(
    features_NH: np.ndarray, labels_NG: np.ndarray, held_N: np.ndarray, weights_AHG: np.ndarray
) -> np.ndarray:
    """Return the mean squared errors (A, G) over the held-out rows."""
    total_AG = np.zeros((len(weights_AHG), labels_NG.shape[1]))
    for block_BH, labels_BG in _chosen(features_NH, labels_NG, held_N):
        total_AG += ((block_BH @ weights_AHG - labels_BG) ** 2).sum(axis=1)
    return total_AG / held_N.sum()


def _split(labelled_N: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split the labelled rows in two masks: rows to fit, and rows to find α by."""
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(labelled_N))
    count = min(max(1, round(share * len(rows))), len(rows) - 1)
    held_N = np.zeros(len(labelled_N), dtype=bool)
    held_N[rows[:count]] = True
    return labelled_N & ~held_N, held_N


def _blocks(features_NH: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(features_NH), _BLOCK):
        yield np.asarray(features_NH[start : start + _BLOCK])


def _chosen(
    features_NH: np.ndarray, labels_NG: np.ndarray, chosen_N: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield blocks of the chosen rows, features and labels; features are float64."""
    for number, block_BH in enumerate(_blocks(features_NH)):
        where = slice(number * _BLOCK, number * _BLOCK + len(block_BH))
        inside_B = chosen_N[where]
        if inside_B.any():
            yield block_BH[inside_B].astype(np.float64), labels_NG[where][inside_B]


def _checked(
    features_NH: np.ndarray,
    labels_NK: np.ndarray,
    attributes: Sequence[str],
    alphas: Sequence[float],
    validation_share: float,
) -> np.ndarray:
    labels_NK = np.asarray(labels_NK, dtype=np.float64)
    if features_NH.ndim != 2 or labels_NK.shape != (len(features_NH), len(attributes)):
        raise InputError(
            "features, labels, attributes",
            f"do not fit: shapes {features_NH.shape}, {labels_NK.shape} and {len(attributes)} "
            f"names, where (N, H), (N, K) and K are expected",
        )
    if np.isinf(labels_NK).any():
        raise InputError("labels", "must be finite numbers, or NaN where there is none")
    if not alphas or min(alphas) <= 0:
        raise InputError(f"alphas={list(alphas)}", "must be one or more numbers above 0")
    if not 0 < validation_share < 1:
        raise InputError(f"validation_share={validation_share}", "must be between 0 and 1")
    return labels_NK
