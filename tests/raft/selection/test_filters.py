"""Filters against brute-force references."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError
from score_arrays import INF, NAN, finite_samples, scores
from wording import words

from raft.config.select import SelectConfig
from raft.selection.filters import compile_reject_pattern, mask_unselectable
from rollout.errors import InputError


def test_lmflow_discards_hashes_and_stubs():
    masked, counts = mask_unselectable(
        [[1.0, 2.0, 3.0, NAN]], [["fine", "a # b", " x ", "#"]], reject_pattern="#", min_chars=2
    )
    np.testing.assert_array_equal(masked, [[1.0, NAN, NAN, NAN]])
    assert {reason: count for reason, count in counts.items() if count} == {
        "not_finite": 1, "rejected": 1, "too_short": 1,
    }  # fmt: skip


def test_truncated_samples_are_kept_unless_told():
    texts, cut = [["a", "b"]], [[True, False]]
    kept, _ = mask_unselectable([[1, 2]], texts, truncated_PK=cut)
    np.testing.assert_array_equal(kept, [[1, 2]])
    masked, counts = mask_unselectable([[1, 2]], texts, truncated_PK=cut, allow_truncated=False)
    np.testing.assert_array_equal(masked, [[NAN, 2]])
    assert counts["truncated"] == 1


def test_unique_keeps_the_first_that_is_selectable():
    masked, counts = mask_unselectable(
        [[NAN, 2, 3, 4], [5, 6, 7, 8]], [["a", "a", "a", "b"], ["a", "b", "c", "a"]], unique=True
    )
    np.testing.assert_array_equal(masked, [[NAN, 2, NAN, 4], [5, 6, 7, NAN]])
    assert counts["duplicate"] == 2


def test_low_scores_are_refused_whatever_the_strategy():
    masked, counts = mask_unselectable([[1.0, 0.5, 0.4, NAN, INF]], [list("abcde")], min_score=0.5)
    np.testing.assert_array_equal(masked, [[1.0, 0.5, NAN, NAN, NAN]])
    assert (counts["low_score"], counts["not_finite"]) == (1, 2)


def test_long_responses_are_refused_without_their_blanks():
    masked, counts = mask_unselectable([[1, 2, 3]], [["four", " four\n", "fiver"]], max_chars=4)
    np.testing.assert_array_equal(masked, [[1, 2, NAN]])
    assert counts["too_long"] == 1


def test_prompts_without_spread_are_left_out_whole():
    scores_PK = [[1.0, 1.2, NAN], [1.0, 1.5, NAN], [2.0, NAN, INF], [NAN, NAN, NAN]]
    masked, counts = mask_unselectable(scores_PK, [list("abc")] * 4, min_spread=0.5)
    np.testing.assert_array_equal(
        masked, [[NAN] * 3, [1.0, 1.5, NAN], [NAN] * 3, [NAN] * 3]
    )  # a spread that is exactly the bound suffices; one score alone has none
    assert (counts["low_spread"], counts["not_finite"]) == (3, 7)


def test_spread_is_of_what_was_drawn_not_of_what_other_filters_leave():
    # one good sample among bad ones is the strongest signal there is
    masked, counts = mask_unselectable(
        [[5.0, -3.0, -2.0]], [["a", "b", "c"]], min_spread=1, min_score=0
    )
    np.testing.assert_array_equal(masked, [[5.0, NAN, NAN]])
    assert (counts["low_spread"], counts["low_score"]) == (0, 2)


bounds = st.none() | st.sampled_from([-1.0, 0.5, 1.0, 2.5])


@pytest.mark.slow
@given(scores, bounds, bounds, st.none() | st.integers(0, 3), st.booleans(), st.data())
def test_filters_agree_with_their_sentences_and_need_one_row(
    scores_PK, min_score, min_spread, max_chars, unique, data
):
    texts = [[data.draw(st.sampled_from(["", "a", "bb"])) for _ in row] for row in scores_PK]
    filters = {
        "min_score": min_score, "min_spread": min_spread, "max_chars": max_chars, "unique": unique,
    }  # fmt: skip
    masked, counts = mask_unselectable(scores_PK, texts, **filters)
    alone = [
        mask_unselectable([row], [own], **filters)
        for row, own in zip(scores_PK, texts, strict=True)
    ]
    np.testing.assert_array_equal(masked, [rows[0] for rows, _ in alone])
    assert counts == {key: sum(one[key] for _, one in alone) for key in counts}
    for p, row in enumerate(scores_PK):
        finite = [row[k] for k in finite_samples(row)]
        flat = min_spread is not None and finite and max(finite) - min(finite) < min_spread
        passing = [
            k
            for k in finite_samples(row)
            if not flat
            and (min_score is None or row[k] >= min_score)
            and (max_chars is None or len(texts[p][k]) <= max_chars)
        ]
        if unique:
            passing = [
                k for k in passing if texts[p][k] not in [texts[p][j] for j in passing if j < k]
            ]
        assert [k for k in range(len(row)) if not math.isnan(masked[p, k])] == passing


@pytest.mark.parametrize("name", ["min_score", "min_spread"])
@pytest.mark.parametrize("bound", [NAN, INF, "high"])
def test_bounds_that_are_no_numbers_are_refused(name, bound):
    with pytest.raises(InputError, match=rf"select\.{name}: .* is not a finite number"):
        mask_unselectable([[1.0]], [["a"]], **{name: bound})


def test_the_config_hands_over_every_filter_and_nothing_else():
    config = SelectConfig(
        strategy="top_m", m=1, reject_pattern="#", min_chars=1, max_chars=4, min_score=0.0,
        min_spread=0.5, allow_truncated=False, unique=True,
    )  # fmt: skip
    masked, _ = mask_unselectable(
        [[1.0, 0.0, -1.0]], [["a", "b", "c"]], truncated_PK=[[False] * 3], **config.filters()
    )
    np.testing.assert_array_equal(masked, [[1.0, 0.0, NAN]])
    taken = set(inspect.signature(mask_unselectable).parameters)
    assert set(config.filters()) == taken - {"scores_PK", "texts_PK", "truncated_PK"}
    assert set(config.filters()) | set(config.arguments()) | {"strategy"} <= set(
        SelectConfig.model_fields
    )


@pytest.mark.parametrize("settings, expected", [
    ({"min_score": NAN}, "finite number"),
    ({"min_spread": 0}, "greater than 0"),
    ({"min_spread": INF}, "finite number"),
    ({"max_chars": 0}, "greater than or equal to 1"),
    ({"max_chars": 3, "min_chars": 4}, "max_chars 3 is less than min_chars 4"),
])  # fmt: skip
def test_filters_that_cannot_work_are_refused_with_the_config(settings, expected):
    with pytest.raises(ValidationError, match=words(expected)):
        SelectConfig(**settings)


@pytest.mark.slow
@given(scores, st.data())
def test_every_masked_sample_is_counted_once(scores_PK, data):
    shape = scores_PK.shape
    texts = [[data.draw(st.sampled_from(["", "a", "a#", "bb"])) for _ in row] for row in scores_PK]
    cut = data.draw(hnp.arrays(np.bool_, shape))
    before = scores_PK.copy()
    masked, counts = mask_unselectable(
        scores_PK, texts, reject_pattern="#", min_chars=1,
        allow_truncated=False, truncated_PK=cut, unique=True,
    )  # fmt: skip
    assert sum(counts.values()) == np.isnan(masked).sum()
    kept = ~np.isnan(masked)
    np.testing.assert_array_equal(masked[kept], before[kept])
    np.testing.assert_array_equal(scores_PK, before)
    for p, row in enumerate(texts):
        left = [text for k, text in enumerate(row) if kept[p, k]]
        assert len(set(left)) == len(left)
        assert all(text and "#" not in text for text in left)


def test_texts_and_flags_must_match_the_scores():
    with pytest.raises(ValueError, match=r"texts must be \(P, K\)"):
        mask_unselectable([[1, 2]], [["a"]])
    with pytest.raises(ValueError, match=r"truncated_PK must be \(P, K\)"):
        mask_unselectable([[1, 2]], [["a", "b"]], allow_truncated=False)


def test_a_broken_pattern_is_the_users_error():
    with pytest.raises(InputError, match=words("select.reject_pattern: '('")):
        compile_reject_pattern("(")
    with pytest.raises(InputError, match=words("select.reject_pattern")):
        mask_unselectable([[1]], [["a"]], reject_pattern="(")
