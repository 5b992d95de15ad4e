"""Measure whether a score depends on anything but its conversation: batch, order or layout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from rewards.doctor.finding import Finding, note, ok, wrong
from rewards.doctor.model_under_test import ModelUnderTest
from rewards.doctor.samples import SAMPLES
from rewards.inference.backbone import Backbone
from rewards.inference.transformers import TransformersEngine
from rollout.types import Message

__all__ = ["TOLERANCE", "check_invariance"]

# largest difference by rounding alone, as a share of the scores' size
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
_FIX = "do not use these scores; this is a fault of the engine, please report it"

Talks = Sequence[Sequence[Message]]


def check_invariance(model: ModelUnderTest) -> Iterator[Finding]:
    """Compare scores of the built-in conversations in one call with those of up to six others.

    These are: again, one by one, in reversed order, in smaller and in larger batches, and in the
    padded layout where the model uses the packed one. Yields nothing where none can be scored.
    """
    readable = model.readable(SAMPLES)
    talks = [SAMPLES[index] for index in readable.kept]
    if not talks:
        return
    together = model.score(talks)
    if not np.isfinite(together).any():
        return  # nothing to compare, which the check of the scores reports
    limit = _limit(model, together)
    yield _repeat(together, model.score(talks), limit)
    alone = np.concatenate([model.score([talk]) for talk in talks])
    yield _compared(
        "batch", f"{len(talks)} conversations alone and together", together, alone, limit
    )
    turned = model.score(talks[::-1])[::-1]
    yield _compared("order", "in reversed order", together, turned, limit)
    yield from _batch_size(model, talks, together, limit)
    yield from _layout(model, talks, together, limit)


def _limit(model: ModelUnderTest, scores: np.ndarray) -> float:
    dtype = str(model.reward.describe().get("dtype", "float32"))
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        return 0.0
    size = max(float(np.abs(finite).max()), float(np.ptp(finite)))
    return TOLERANCE.get(dtype, 1e-4) * size


def _apart(first: np.ndarray, second: np.ndarray) -> float:
    """Return the largest difference, which is infinite where a score is missing on one side only.

    Return 0 where there is no score to compare.
    """
    both = np.isfinite(first) & np.isfinite(second)
    if (np.isfinite(first) != np.isfinite(second)).any():
        return float("inf")
    return float(np.abs(first[both] - second[both]).max()) if both.any() else 0.0


def _compared(what: str, how: str, first: np.ndarray, second: np.ndarray, limit: float) -> Finding:
    apart = _apart(first, second)
    detail = f"{how}: largest difference {apart:.1e} (limit {limit:.1e})"
    if apart > limit:
        return wrong(what, detail, _FIX, max_difference=apart, limit=limit)
    return ok(what, detail, max_difference=apart, limit=limit)


def _repeat(first: np.ndarray, second: np.ndarray, limit: float) -> Finding:
    apart = _apart(first, second)
    if apart == 0:
        return ok("repeat", "twice the same: equal bit for bit", max_difference=0.0)
    finding = _compared("repeat", "twice the same", first, second, limit)
    if finding.level == "wrong":
        return finding
    return note("repeat", f"{finding.detail}: sums in no fixed order", max_difference=apart)


def _batch_size(
    model: ModelUnderTest, talks: Talks, together: np.ndarray, limit: float
) -> Iterator[Finding]:
    own = getattr(model.engine, "batch_tokens", None)
    if not isinstance(own, int):
        return
    for budget in (1, 4 * own):
        with _changed(model.engine, "batch_tokens", budget):
            other = model.score(talks)
        how = f"batch_tokens={budget} instead of {own}"
        yield _compared("batch size", how, together, other, limit)


def _layout(
    model: ModelUnderTest, talks: Talks, together: np.ndarray, limit: float
) -> Iterator[Finding]:
    if not isinstance(model.engine, TransformersEngine):
        return
    backbone = model.engine.backbone
    if backbone.layout != "packed":
        yield ok("padding", "rows are padded on the right; the batch line above covers it")
        return
    with _padded(backbone):
        other = model.score(talks)
    yield _compared("padding", "rows packed and rows padded", together, other, limit)


@contextlib.contextmanager
def _padded(backbone: Backbone) -> Iterator[None]:
    """Hold the backbone in the padded layout with transformers' eager attention.

    No other computation at hand shares less with the packed layout.
    """
    own = backbone.model.config._attn_implementation
    with _changed(backbone, "layout", "padded"):
        backbone.model.set_attn_implementation("eager")
        try:
            yield
        finally:
            backbone.model.set_attn_implementation(own)


@contextlib.contextmanager
def _changed(of: object, name: str, value: object) -> Iterator[None]:
    own = getattr(of, name)
    setattr(of, name, value)
    try:
        yield
    finally:
        setattr(of, name, own)
