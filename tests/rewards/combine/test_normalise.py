"""Normalisers by hand and against independent references; score files and what is wrong in them."""

from __future__ import annotations

import gzip
import json
import math
import statistics

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wording import words

from rewards.combine.normalise import build_normaliser
from rollout.data.scored_files import read_scored, read_scores
from rollout.types import InputError


def normalised(spec, scores_K):
    return build_normaliser(spec, "here")(scores_K)


def test_by_hand():
    scores = [1.0, None, 3.0, 5.0]
    root = math.sqrt(8 / 3)
    assert normalised("none", scores) == scores
    assert normalised(None, scores) == scores
    assert normalised("group", scores) == pytest.approx([-2 / root, None, 0, 2 / root])
    assert normalised("rank", scores) == [0, None, 0.5, 1]
    assert normalised({"mean": 3, "std": 2}, scores) == [-1, None, 0, 1]
    assert normalised("sigmoid", [0.0, math.log(3), -math.log(3)]) == pytest.approx(
        [0.5, 0.75, 0.25]
    )
    assert normalised("sigmoid", [-1e308, 1e308]) == [0.0, 1.0]


def test_equal_scores_are_in_the_middle():
    for scores in ([0.1, 0.1, 0.1], [7.0], [], [None]):
        middles = {"group": 0.0, "rank": 0.5}
        for spec, middle in middles.items():
            expected = [None if score is None else middle for score in scores]
            assert normalised(spec, scores) == expected


few = st.lists(st.sampled_from([-1.5, 0.0, 0.1, 2.0, 9.0]), min_size=2, max_size=8)


@given(few)
def test_ranks_are_average_ranks(scores):
    expected = ((pd.Series(scores).rank() - 1) / (len(scores) - 1)).tolist()
    assert normalised("rank", scores) == pytest.approx(expected)


# a spread below a millionth of the scores counts as rounding, and is not meant here
@given(few, st.floats(-1e3, 1e3), st.floats(0.1, 1e3))
def test_z_scores_have_mean_0_and_std_1_whatever_the_scale(scores, shift, scale):
    z = normalised("group", scores)
    spread = statistics.pstdev(scores)
    assert statistics.fmean(z) == pytest.approx(0, abs=1e-9)  # type: ignore[arg-type]
    assert statistics.pstdev(z) == pytest.approx(1 if spread else 0)  # type: ignore[arg-type]
    moved = normalised("group", [shift + scale * score for score in scores])
    assert moved == pytest.approx(z, abs=1e-6)


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS = [
    {"id": "a", "prompt": "?", "responses": ["x y", "z", "w"], "scores": [1.0, None, 3.0]},
    {"prompt": "?", "response": "one two three", "score": 5, "token_ids": [7, 8]},
    {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "hm"}],
     "score": 7.0},
    {"prompt": "?", "chosen": "yes yes", "rejected": "no", "chosen_score": 9,
     "rejected_score": None},
]  # fmt: skip


def test_a_file_of_scores_gives_mean_and_std(tmp_path):
    path = lines(tmp_path / "scores.jsonl", ROWS)
    assert read_scores(path, "w") == [1.0, None, 3.0, 5.0, 7.0, 9.0, None]
    found = build_normaliser({"from": str(path)}, "w")
    assert found.describe() == {
        "kind": "standard", "mean": 5.0, "std": pytest.approx(math.sqrt(8)), "from": str(path),
        "scores": 5,
    }  # fmt: skip
    assert found([5.0, None]) == [0.0, None]
    assert not found.within_group
    packed = tmp_path / "scores.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert build_normaliser({"from": packed}, "w")([9.0]) == found([9.0])


def test_scores_of_a_name_are_read_where_it_is_given(tmp_path):
    named = [
        {("h_" + key if "score" in key else key): value for key, value in row.items()}
        for row in ROWS
    ]
    path = lines(tmp_path / "named.jsonl", named)
    assert read_scores(path, "w", "h") == [1.0, None, 3.0, 5.0, 7.0, 9.0, None]
    found = build_normaliser({"from": str(path), "column": "h"}, "w")
    assert found([5.0]) == [0.0]
    assert found.describe()["column"] == "h"
    # what raft score wrote, by its own rule for columns
    both = lines(tmp_path / "both.jsonl", [{**ROWS[0], "h_scores": [2.0, 4.0, 6.0]}])
    assert read_scores(both, "w", "h") == [2.0, 4.0, 6.0]
    for row, end in zip(named, ("scores", "score", "score", "chosen_score"), strict=True):
        one = lines(tmp_path / "one.jsonl", [row])
        with pytest.raises(InputError, match=r"no .scores.*--output-column h: score it again"):
            read_scores(one, "w")
        with pytest.raises(InputError, match=r'no "g_scores".*--output-column h$'):
            read_scores(one, "w", "g")
        assert any(key == f"h_{end}" for key in row)


@pytest.mark.parametrize("column", ["", 3, ["a"]])
def test_a_column_is_a_name(column):
    with pytest.raises(InputError, match=r"w\.column: .* is no name"):
        build_normaliser({"from": "x.jsonl", "column": column}, "w")


def test_a_file_of_scores_gives_responses(tmp_path):
    pairs = read_scored(lines(tmp_path / "scores.jsonl", ROWS), "w")
    assert [one.text for one, _ in pairs] == [
        "x y", "z", "w", "one two three", "hm", "yes yes", "no",
    ]  # fmt: skip
    assert [one.token_ids for one, _ in pairs][3] == (7, 8)
    assert [score for _, score in pairs] == [1.0, None, 3.0, 5.0, 7.0, 9.0, None]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("zscore", "here 'zscore' none group rank sigmoid"),
        (3, "3 is no mapping"),
        ({"mean": 1}, "here mean std from"),
        ({}, "here mean std from"),
        ({"mean": 1, "std": 1, "from": "x"}, "here mean std from"),
        ({"mean": 1, "sd": 1}, "unknown key 'sd'"),
        ({"mean": 1, "std": 0}, "here.std: 0 must be more than 0"),
        ({"mean": math.inf, "std": 1}, "here.mean: inf is no finite number"),
        ({"from": "/nowhere.jsonl"}, "here: /nowhere.jsonl: no such file"),
    ],
)
def test_normalisers_that_cannot_be_are_refused(spec, expected):
    with pytest.raises(InputError, match=words(expected)) as caught:
        build_normaliser(spec, "here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "0 scores 2"),
        ('{"score": 1}\n{"score": null}\n', "holds 1 scores"),
        ('{"scores": [0.1, 0.1, 0.1]}\n', "all 3 scores are equal"),
        ('{"scores": [1e308, 1e308, -1e308]}\n', "too large"),
        ('{"score": 1}\n{"score": "2"}\n', "scores.jsonl:2: the score '2' is a string"),
        ('{"score": NaN}\n', "scores.jsonl:1: has the score nan"),
        ('{"score": true}\n', "holds 1 scores"),
        ('{"score": 1' + "0" * 400 + "}\n", "scores.jsonl:1"),
        ('{"reward": 1}\n', 'scores.jsonl:1: has no "scores", "score"'),
        ('{"chosen_score": 1}\n', "scores.jsonl:1: has no"),
        ('{"score": 1}\n\n{"score"\n', "scores.jsonl:3 not valid JSON"),
        ("[1, 2]\n", "scores.jsonl:1 no JSON object"),
        ('{"score": "\xff"}\n', "scores.jsonl:1: not UTF-8"),
    ],
)
def test_files_without_a_scale_are_refused_with_their_line(tmp_path, text, expected):
    path = tmp_path / "scores.jsonl"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=words(expected)) as caught:
        build_normaliser({"from": str(path)}, "members[0].normalise")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"members[0].normalise: {path}")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"scores": [1.0]}, "does not have a response"),
        ({"scores": [1.0], "responses": ["a", "b"]}, "1 scores for 2 responses"),
        ({"scores": [1.0], "responses": ["a"], "token_ids": [[1], [2]]}, "a list of token ids"),
        ({"score": 1.0}, "without the response's text"),
        ({"score": 1.0, "messages": []}, "without the response's text"),
        ({"chosen": "a", "rejected": "b", "chosen_score": 1, "rejected_score": 2}, "where the"),
        ({"prompt": "?", "chosen_score": 1, "rejected_score": 2}, "without the response's text"),
    ],
)  # fmt: skip
def test_scores_without_responses_are_refused_where_these_are_needed(tmp_path, row, says):
    path = lines(tmp_path / "scores.jsonl", [row])
    with pytest.raises(InputError, match=rf"w: .*:1: .*{says}"):
        read_scored(path, "w")
