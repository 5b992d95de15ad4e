"""Accuracy on held-out pairs, as every recipe reports it. Knows nothing of models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from rewards.evaluation.accuracy import accuracy
from rewards.pairs import Pair

__all__ = ["held_out_accuracy"]


def held_out_accuracy(
    margins_N: np.ndarray, pairs: Sequence[Pair], *, seed: int = 0
) -> dict[str, Any]:
    """Accuracy of N pairs by their margins, NaN for one without, and its 95 % interval.

    The interval is by resampling `eval/prompts` prompts, the pairs of one prompt being one draw:
    it is NaN where the pairs that tell anything have one prompt and differ in outcome.
    """
    prompts = [json.dumps([*map(dict, pair.prompt)], ensure_ascii=False) for pair in pairs]
    found = accuracy(margins_N, prompts, seed=seed)
    return {
        "eval/accuracy": found.strict,
        "eval/accuracy_low": found.interval.low,
        "eval/accuracy_high": found.interval.high,
        "eval/ties": found.ties,
        "eval/prompts": found.clusters,
    }
