"""Arrays of scores for properties of selection: few distinct values, and every kind of missing."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

NAN, INF = math.nan, math.inf
# few distinct values make ties common; every kind of missing score occurs
score = st.sampled_from([-2.0, -1.0, 0.0, 1.0, 1.5, NAN, INF, -INF])
scores = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=score
)


def finite_samples(row: Iterable[float]) -> list[int]:
    return [k for k, value in enumerate(row) if math.isfinite(value)]
