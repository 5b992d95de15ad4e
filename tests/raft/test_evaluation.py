"""What is measured of stored samples, against the definitions written out in loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raft.evaluation import summarize
from rollout.data.samples import SampleRow


def row(p: int, scores, golds=None) -> SampleRow:
    count = len(scores)
    columns = {"scores": list(scores)} | ({} if golds is None else {"gold_scores": list(golds)})
    return SampleRow(
        id=str(p),
        prompt="x",
        responses=["a b"] * count,
        scores=columns,
        token_ids=[[1, 2]] * count,
        finish_reasons=["stop"] * count,
    )


def test_what_choosing_buys_is_the_winner_less_its_prompts_mean():
    rng = np.random.default_rng(0)
    rewards, golds = rng.integers(0, 4, (30, 5)).astype(float), rng.normal(size=(30, 5))
    found = summarize((row(p, rewards[p], golds[p]) for p in range(30)), "eval")
    best = [int(np.argmax(r)) for r in rewards]
    gains = [r[k] - sum(r) / 5 for r, k in zip(rewards, best, strict=True)]
    gold_gains = [g[k] - sum(g) / 5 for g, k in zip(golds, best, strict=True)]
    assert found["eval/selection_gain"] == pytest.approx(sum(gains) / 30)
    assert found["eval/gold_selection_gain"] == pytest.approx(sum(gold_gains) / 30)
    # Student's t quantile of 29 degrees of freedom
    half_width = 2.0452296421 * np.std(gold_gains, ddof=1) / math.sqrt(30)
    assert found["eval/gold_selection_gain_ci95"] == pytest.approx(half_width, rel=1e-8)
    hits = [golds[p][k] == max(golds[p]) for p, k in enumerate(best)]
    assert found["eval/gold_hit_rate"] == pytest.approx(sum(hits) / 30)
    assert found["eval/gold_hit_chance"] == pytest.approx(1 / 5)
    assert found["eval/choice_share"] == pytest.approx(np.mean([max(r) > min(r) for r in rewards]))


def test_missing_scores_are_left_out_of_what_choosing_buys():
    rows = [
        row(0, [None, 1.0, 3.0], [9.0, 0.0, 2.0]),  # the first has no reward: it is no alternative
        row(1, [None, None, None], [1.0, 2.0, 3.0]),
        row(2, [2.0, 2.0, None], [None, 4.0, 5.0]),  # a tie; the chosen one's gold is not known
    ]
    found = summarize(rows, "eval")
    assert found["eval/selection_gain"] == pytest.approx((1.0 + 0.0) / 2)
    assert found["eval/gold_selection_gain"] == pytest.approx(1.0)
    assert found["eval/choice_share"] == pytest.approx(1 / 2)
    assert (found["eval/gold_hit_rate"], found["eval/gold_hit_chance"]) == (1.0, 0.5)


def test_tournament_points_have_no_gain():
    rows = [row(0, [0.2, 0.8]), row(1, [0.5, 0.5])]
    found = summarize(rows, "rollout", without_means=("scores",))
    assert not any("gain" in key for key in found)
    assert found["rollout/choice_share"] == 0.5
