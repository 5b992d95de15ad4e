"""ArmoRM's verbosity penalties: Spearman and the search for λ against other libraries."""

from __future__ import annotations

import json
import logging
import math
from typing import cast

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wording import words

from rewards.combine.debias import (
    PUBLISHED_GRID,
    build_debias,
    find_penalty,
    fit_debias,
    penalty_matrix,
)
from rewards.evaluation.stats import spearman
from rollout.types import InputError

values = st.sampled_from([-3.0, -1.0, 0.0, 0.25, 1.0, 2.0])
samples = st.lists(st.tuples(values, values | st.floats(-5, 5)), min_size=3, max_size=30)


def by_pandas(x_N, y_N) -> float:
    return pd.DataFrame({"x": x_N, "y": y_N}).corr(method="spearman").iloc[0, 1]  # type: ignore


@pytest.fixture(scope="module", params=["pandas", "scipy"])
def reference(request):
    """Two libraries' Spearman; the second is what ArmoRM's own code calls."""
    if request.param == "pandas":
        return by_pandas
    from scipy import stats

    return lambda x_N, y_N: float(cast("float", stats.spearmanr(x_N, y_N)[0]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:An input array is constant")
@settings(deadline=None)  # the first call imports pandas' parts
@given(pairs=samples)
def test_spearman_is_that_of_other_libraries(reference, pairs):
    x_N, y_N = (np.array(column) for column in zip(*pairs, strict=True))
    expected = reference(x_N, y_N)
    assert spearman(x_N, y_N) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_the_published_grid():
    tail = [round(0.2 + 0.05 * step, 2) for step in range(16)]
    assert list(PUBLISHED_GRID) == [0, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, *tail]


def verbose(seed, coupling, count=400):
    """A reward with a share of verbosity in it, both of std about 1."""
    rng = np.random.default_rng(seed)
    verbosity_N = rng.gamma(2.0, size=count)
    verbosity_N /= verbosity_N.std()
    noise_N = rng.normal(size=count)
    return coupling * verbosity_N + noise_N, verbosity_N


@pytest.mark.slow
@pytest.mark.parametrize("coupling", [-0.5, 0.0, 0.02, 0.1, 0.3, 0.6, 0.9, 1.5])
@pytest.mark.parametrize("threshold", [0.03, 0.0, 0.2])
def test_the_penalty_is_the_smallest_of_a_brute_force_search(reference, coupling, threshold):
    for seed in range(3):
        rewards_N, verbosity_N = verbose(seed, coupling)
        found = find_penalty(rewards_N, verbosity_N, threshold=threshold)
        good = [
            penalty
            for penalty in PUBLISHED_GRID
            if reference(rewards_N - penalty * verbosity_N, verbosity_N) <= threshold
        ]
        assert found.value == (min(good) if good else 1.0)
        assert found.met == bool(good)
        left = reference(rewards_N - found.value * verbosity_N, verbosity_N)
        assert found.correlation == pytest.approx(left, abs=1e-12)
        assert found.before == pytest.approx(reference(rewards_N, verbosity_N), abs=1e-12)


def test_a_reward_that_falls_with_length_is_left_alone():
    # signed, not absolute: short answers may be preferred
    found = find_penalty([3.0, 2.0, 1.0], [1.0, 2.0, 3.0])
    assert (found.value, found.met) == (0.0, True)
    assert found.before == pytest.approx(-1)


def test_the_grid_may_be_ones_own_and_in_any_order():
    rewards_N, verbosity_N = verbose(0, 0.3)
    found = find_penalty(rewards_N, verbosity_N, grid=(2.0, 0.5, 1.5))
    assert found.value == 0.5


@pytest.mark.parametrize(
    ("rewards", "verbosity", "expected"),
    [
        ([1, 2], [1, 2], "2 samples"),
        ([1, 2, 3], [1, 2], "must both be"),
        ([1, 2, math.nan], [1, 2, 3], "must be finite"),
        ([1, 2, 3], [1, 1, 1], "equally verbose"),
    ],
)
def test_references_that_say_nothing_are_refused(rewards, verbosity, expected):
    with pytest.raises(InputError, match=words(expected)):
        find_penalty(rewards, verbosity)


def test_the_matrix_takes_verbosity_out_of_every_reward(caplog):
    columns = [verbose(seed, coupling)[0] for seed, coupling in ((1, 0.2), (2, -0.4), (3, 0.0))]
    # one draw of verbosity for all: the columns above have others, so couple them here
    verbosity_N = verbose(9, 0.0)[1]
    rewards_NK = np.stack(
        [
            columns[0] + 0.5 * verbosity_N,
            columns[1],
            verbosity_N,
            columns[2] + 3 * verbosity_N,  # beyond the grid
        ],
        axis=1,
    )
    with caplog.at_level(logging.WARNING, logger="rewards"):
        matrix = penalty_matrix(rewards_NK, 2)
    assert [record.getMessage()[:34] for record in caplog.records] == [
        "verbosity debiasing of reward 3: n"
    ]
    adjusted = rewards_NK @ matrix
    np.testing.assert_array_equal(adjusted[:, 2], 0)
    for index in (0, 1):
        assert by_pandas(adjusted[:, index], verbosity_N) <= 0.03
        assert -matrix[2, index] in PUBLISHED_GRID
        np.testing.assert_allclose(
            adjusted[:, index], rewards_NK[:, index] + matrix[2, index] * verbosity_N
        )
    assert matrix[2, 3] == -1  # unmet: 1, as published
    others = np.delete(matrix, 2, axis=0)
    np.testing.assert_array_equal(others, np.delete(np.eye(4), 2, axis=0))


def test_the_score_is_the_same_by_rewards_or_by_coefficients():
    # ArmoRM's identity: gating · (rewards M) = (gating Mᵀ) · rewards
    rng = np.random.default_rng(0)
    matrix = penalty_matrix(rng.normal(size=(50, 5)), 1)
    rewards_BK, gating_BK = rng.normal(size=(4, 5)), rng.dirichlet(np.ones(5), size=4)
    by_rewards = (gating_BK * (rewards_BK @ matrix)).sum(axis=1)
    coefficients_BK = gating_BK @ matrix.T
    np.testing.assert_allclose((coefficients_BK * rewards_BK).sum(axis=1), by_rewards)
    assert (coefficients_BK[:, 1] <= 0).all()


@pytest.mark.parametrize("index", [-1, 3])
def test_a_matrix_needs_its_verbosity(index):
    with pytest.raises(InputError, match="is no column"):
        penalty_matrix(np.zeros((4, 3)), index)


# ----------------------------------------------------------------------------------- debiasing


def reference_file(path, coupling=0.5, count=600):
    """Responses of 1 to 60 words, and a reward on a scale of its own that likes them long."""
    rng = np.random.default_rng(5)
    words_N = rng.integers(1, 60, size=count)
    rewards_N = 40 + 7 * (coupling * (words_N - 30) / 17 + rng.normal(size=count))
    rows = [
        {"responses": ["w " * n, "skipped " * 400], "scores": [score, None]}
        for n, score in zip(words_N.tolist(), rewards_N.tolist(), strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return words_N, rewards_N


def test_a_reference_gives_constants_that_can_be_pinned(tmp_path, caplog):
    path = tmp_path / "scores.jsonl"
    words_N, rewards_N = reference_file(path)
    with caplog.at_level(logging.INFO, logger="rewards"):
        debias = build_debias({"reference": str(path)}, "debias")
    assert debias is not None
    assert (debias.mean, debias.std, debias.scale) == pytest.approx(
        (words_N.mean(), words_N.std(), rewards_N.std())
    )
    standard_N = (words_N - words_N.mean()) / words_N.std() * rewards_N.std()
    good = [p for p in PUBLISHED_GRID if by_pandas(rewards_N - p * standard_N, words_N) <= 0.03]
    assert debias.penalty == min(good) > 0
    adjusted = [r - debias.amount(n) for r, n in zip(rewards_N, words_N, strict=True)]
    assert by_pandas(rewards_N, words_N) > 0.3
    assert by_pandas(adjusted, words_N) <= 0.03
    assert f"penalty {debias.penalty:g}" in caplog.text and "over 600 samples" in caplog.text
    pinned = {name: getattr(debias, name) for name in ("penalty", "mean", "std", "scale")}
    assert build_debias(pinned, "debias") == debias


@pytest.mark.slow
@given(st.floats(0.01, 100), st.floats(-50, 50), st.floats(0.1, 30))
def test_the_penalty_has_no_units(scale, shift, words_per_unit):
    rewards_N, verbosity_N = verbose(4, 0.4, count=60)
    plain = fit_debias(rewards_N, verbosity_N)
    other = fit_debias(scale * rewards_N + shift, words_per_unit * verbosity_N)
    assert other.penalty == plain.penalty
    assert other.amount(words_per_unit * 2.0) == pytest.approx(scale * plain.amount(2.0))


def test_an_unmet_threshold_is_said(tmp_path, caplog):
    path = tmp_path / "scores.jsonl"
    reference_file(path)
    with caplog.at_level(logging.WARNING, logger="rewards"):
        debias = build_debias({"reference": str(path), "threshold": -0.99}, "debias")
    assert debias is not None and debias.penalty == 1
    assert "kept at 1 as published" in caplog.text


def test_verbosity_may_be_a_members_score(tmp_path):
    rewards_N, verbosity_N = verbose(2, 0.5)
    paths = []
    for name, column in (("r", rewards_N), ("v", verbosity_N)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"score": x}) + "\n" for x in [None, *column.tolist()]))
        paths.append(str(path))
    found = build_debias(
        {"reference": paths[0], "verbosity_reference": paths[1], "member": "v"}, "debias"
    )
    assert found == fit_debias(rewards_N, verbosity_N, member="v")
    (tmp_path / "v.jsonl").write_text('{"score": 1}\n')
    with pytest.raises(InputError, match="1 scores for the reference's 401"):
        build_debias(
            {"reference": paths[0], "verbosity_reference": paths[1], "member": "v"}, "debias"
        )


CONSTANTS = {"penalty": 0.1, "mean": 1, "std": 2, "scale": 3}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("words", "debias: 'words' is no mapping"),
        ({}, "reference or penalty, mean, std, scale"),
        ({"penalty": 0.1}, "reference or penalty, mean, std, scale"),
        ({"threshold": 0.1}, "reference or penalty"),
        ({**CONSTANTS, "reference": "x"}, "reference or penalty"),
        ({**CONSTANTS, "threshold": 0.1}, "reference or penalty"),
        ({**CONSTANTS, "std": 0}, "debias.std: 0 must be more than 0"),
        ({**CONSTANTS, "scale": -1}, "debias.scale: -1 must be more than 0"),
        ({**CONSTANTS, "penalty": -1}, "debias.penalty: -1 must be 0 or more"),
        ({**CONSTANTS, "per": "line"}, "debias.per: 'line' word char token"),
        ({**CONSTANTS, "per": "word", "member": "v"}, "per and member"),
        ({**CONSTANTS, "lambda": 1}, "unknown key 'lambda'"),
        ({"reference": "x", "member": "v"}, "go together"),
        ({"reference": "x", "verbosity_reference": "v"}, "go together"),
        ({"reference": "/nowhere.jsonl"}, "debias.reference: /nowhere.jsonl: no such file"),
        ({"reference": "x", "threshold": "low"}, "debias.threshold: 'low' is no finite number"),
    ],
)
def test_debiasing_that_cannot_be_is_refused(settings, expected):
    with pytest.raises(InputError, match=words(expected)) as caught:
        build_debias(settings, "debias")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("a", 1.0), ("a b", 2.0)], "2 samples"),
        ([("a", 1.0), ("b", 2.0), ("c", 3.0)], "verbosity equal"),
        ([("a", 1.0), ("a b", 1.0), ("a b c", 1.0)], "rewards equal"),
    ],
)
def test_references_that_teach_nothing_are_refused_with_the_file(tmp_path, rows, expected):
    path = tmp_path / "scores.jsonl"
    path.write_text(
        "".join(json.dumps({"response": text, "score": score}) + "\n" for text, score in rows)
    )
    with pytest.raises(InputError, match=words(f"debias.reference {path} {expected}")):
        build_debias({"reference": str(path)}, "debias")
    with pytest.raises(InputError, match="token ids"):
        build_debias({"reference": str(path), "per": "token"}, "debias")
