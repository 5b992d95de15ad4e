"""ArmoRM's labels as a matrix: which attributes there are, and what is known of each row."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from rewards.heads.gating import ARMORM_ATTRIBUTES
from rewards.pair_sources.rated import Rated
from rollout.types import InputError

__all__ = ["label_matrix", "varying_labels"]

log = logging.getLogger("rewards")


def label_matrix(
    rated: Sequence[Rated], attributes: Sequence[str] | None, leave_out_unlabelled: bool
) -> tuple[tuple[str, ...], np.ndarray]:
    """K names, and labels (N, K) with NaN where there is none.

    Raises `InputError` for a label of an attribute that is not asked for, one that is no finite
    number, and an attribute without any label unless those are left out.
    """
    seen = dict.fromkeys(name for one in rated for name in one.labels)
    names = tuple(
        attributes or (ARMORM_ATTRIBUTES if seen.keys() <= {*ARMORM_ATTRIBUTES} else seen)
    )
    unknown = [name for name in seen if name not in names]
    if unknown:
        raise InputError(f"rows are rated for {unknown[0]!r}, which is none of {', '.join(names)}")
    if len(set(names)) < len(names):
        raise InputError(f"attributes has a name twice: {', '.join(names)}")
    missing = [name for name in names if name not in seen]
    if missing and not leave_out_unlabelled:
        raise InputError(
            f"no row is rated for the attribute {missing[0]!r} ({len(missing)} in all): "
            "rate it, or set leave_out_unlabelled"
        )
    names = tuple(name for name in names if name in seen)
    if not names:
        raise InputError("no row has a label: there is nothing to regress on")
    place = {name: index for index, name in enumerate(names)}
    labels_NK = np.full((len(rated), len(names)), np.nan, dtype=np.float32)
    for row, one in enumerate(rated):
        for name, value in one.labels.items():
            labels_NK[row, place[name]] = value
            if not np.isfinite(value):
                raise InputError(f"rated row {row}: {name} is {value}, no finite number")
    if np.nanmin(labels_NK) < 0 or np.nanmax(labels_NK) > 1:
        log.warning("labels are outside [0, 1]: penalties on verbosity presume a common scale")
    return names, labels_NK


def varying_labels(
    names: tuple[str, ...], labels_NK: np.ndarray, leave_out: bool
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and columns of the attributes whose labels differ: one value alone teaches nothing.

    Raises `InputError` for an attribute whose labels are all equal unless those are left out, and
    where no other is left.
    """
    lowest_K, highest_K = np.nanmin(labels_NK, axis=0), np.nanmax(labels_NK, axis=0)
    equal = np.flatnonzero(lowest_K == highest_K).tolist()
    about = [
        f"{names[k]!r} ({int((~np.isnan(labels_NK[:, k])).sum())} labels, all {lowest_K[k]:g})"
        for k in equal
    ]
    if equal and not (leave_out and len(equal) < len(names)):
        raise InputError(
            f"there is nothing to learn from of the attribute {about[0]}, {len(equal)} in all: "
            "rate it by more than one value, or set leave_out_unlabelled"
        )
    if equal:
        log.warning("left out, for all their labels are equal: %s", ", ".join(about))
    kept = [k for k in range(len(names)) if k not in equal]
    return tuple(names[k] for k in kept), labels_NK[:, kept]
