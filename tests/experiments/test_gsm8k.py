"""Numbers read from answers as they are written, and `raft eval-pool` on pools of them."""

from __future__ import annotations

import gzip
import json
from fractions import Fraction
from pathlib import Path

import pytest
from wording import says

from experiments.gsm8k import __main__ as experiment
from raft.cli.main import main
from rewards.functions import numeric_match
from rewards.functions.numeric_match import read_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 3/4", "3/4"),
        (r"\boxed{\frac{3}{4}}", "3/4"),
        (r"\boxed{-\dfrac12}", "-1/2"),
        (r"\boxed{1\frac{1}{2}}", "3/2"),
        ("that makes 1 1/2", "3/2"),
        ("in a row of 2 10/5", "2"),
        ("(1/2)", "1/2"),
        ("on 5/6/2020", "2020"),
        ("10 / 5", "5"),
        ("5/0", "0"),
        ("1/2.5", "5/2"),
        ("The answer is 42. I hope the 3 of you agree.", "42"),
        ("the answer is: $1,234.50 (2 cents more)", "2469/2"),
        ("Answer: 7\n\nWas that 3 steps?", "7"),
        ("The answer is 2 + 3 = 5 eggs, not 7", "5"),
        ("The answer is 5, because 10 = 2*5", "5"),
        ("The answer is 4. Wait: the answer is 6. That took 2 tries", "6"),
        ("The answer is 3.5 metres. 9", "7/2"),
        ("The answer is unknown; 7 maybe", "7"),
        ("The answer is unknown. Say 7", "7"),
        ("An answerer is 5, not 6", "6"),
        ("#### 3.0", "3"),
        ("#### -12%", "-12"),
    ],
)
def test_an_answer_however_it_is_written(text, number):
    assert read_number(text) == Fraction(number)


def test_numbers_of_any_length_are_read():
    assert read_number("9" * 9000) == 10**9000 - 1
    assert numeric_match([""], ["1/" + "3" * 5000], answer=["0.5"]) == [0.0]


@pytest.mark.slow
def test_grading_agrees_with_the_labels_of_published_solutions(raft_data):
    rows = list(experiment.read_solutions())
    found = {name: experiment.agreement(rows, grade) for name, grade in experiment.GRADERS.items()}
    assert found["numeric_match"]["share"] == 1.0 and not found["numeric_match"]["classes"]
    # the labels can be disagreed with: texts differ by their commas, looser grading by more
    assert found["text after A:"]["classes"] == {"labelled right, commas": 6}
    assert found["any line"]["share"] < 0.97


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pool(tmp_path: Path) -> str:
    return write(
        tmp_path / "pool.jsonl",
        {
            "id": "a",
            "responses": ["#### 4", "4.0", "it is 5", "none"],
            "scores": [0.1, 0.9, 0.5, None],
            "answer": "2 + 2 = 4\n#### 4",
        },
        {"id": "b", "responses": ["1", "2", "2"], "scores": [3, 2, 1], "answer": 1},
        {"id": "c", "responses": ["1"], "scores": [0], "answer": None},
    )


def report(capsys, *arguments: str):
    code = main(["eval-pool", "--quiet", *arguments, "--json"])
    said = capsys.readouterr()
    assert code == 0, said.err
    return json.loads(said.out)


def test_a_pool_by_hand(tmp_path, capsys):
    found = report(capsys, pool(tmp_path), "--k", "1,2,3", "--score-column", "scores", "--weighted")
    assert (found["questions"], found["unanswered"], found["responses"]) == (2, 1, 7)
    assert (found["right"], found["without_number"], found["without_score"]) == (3, 1, 1)
    one, two, three = found["results"]
    assert one["pass"]["mean"] == pytest.approx((2 / 4 + 1 / 3) / 2)
    assert one["maj"]["mean"] == pytest.approx(one["pass"]["mean"])
    # of a, pairs without a right one: (5, none); of b: (2, 2)
    assert two["pass"]["mean"] == pytest.approx((5 / 6 + 2 / 3) / 2)
    # a: 44 → 1, 45 and 54 → ½ twice, 4- twice → 1, 5- → 0; b: 12 → ½ twice, 22 → 0
    assert two["maj"]["mean"] == pytest.approx(((1 + 2 * 0.5 + 2 * 1) / 6 + (2 * 0.5) / 3) / 2)
    # the three of a with a score, best by score 4.0; the best of b is right
    assert three["rm"]["mean"] == pytest.approx(1.0)
    assert three["weighted_maj"]["questions"] == 2
    low, high = one["pass"]["low"], one["pass"]["high"]
    assert low <= one["pass"]["mean"] <= high


def test_answers_may_stand_in_the_file_of_questions(tmp_path, capsys):
    bare = write(tmp_path / "bare.jsonl", {"id": "q-000002", "responses": ["7", "8"]})
    known = write(tmp_path / "q.jsonl", {"answer": "#### 1"}, {"answer": "#### 8"})
    assert report(capsys, bare, "--questions", known)["right"] == 1
    assert report(capsys, bare, "--questions", known, "--tolerance", "1")["right"] == 2


def test_rows_whose_id_is_null_are_questions_of_their_own(tmp_path, capsys):
    rows = [{"id": None, "responses": ["1", "2"], "answer": number} for number in (1, 2, 3)]
    found = report(capsys, write(tmp_path / "null.jsonl", *rows))
    assert (found["questions"], found["right"]) == (3, 2)


def test_files_and_intervals(tmp_path, capsys):
    rows = [{"responses": ["1", "2"], "answer": number % 3} for number in range(60)]
    out = tmp_path / "out"
    assert main(["eval-pool", write(tmp_path / "many.jsonl", *rows), "--out-dir", str(out)]) == 0
    text = capsys.readouterr().out
    assert text.startswith((out / "pool.md").read_text().rstrip("\n"))
    (one, _) = json.loads((out / "pool.json").read_text())["results"]
    # a third of the questions has no right response, all others one of two
    assert one["pass"]["mean"] == pytest.approx(1 / 3)
    half = 1.96 * (2 / 9 / 4 / 60) ** 0.5
    assert one["pass"]["high"] - one["pass"]["low"] == pytest.approx(2 * half, rel=0.15)


@pytest.mark.slow
def test_real_solutions_are_read_as_a_pool(raft_data, tmp_path, capsys):
    rows = list(experiment.read_solutions())[:200]
    file = write(tmp_path / "real.jsonl", *map(experiment.pool_row, rows))
    found = report(capsys, file, "--score-column", "shorter_scores", "--weighted", "sigmoid")
    labels = [row[model]["is_correct"] for row in rows for model in experiment.MODELS]
    assert found["right"] == sum(labels)
    four = found["results"][-1]
    passed = [any(row[model]["is_correct"] for model in experiment.MODELS) for row in rows]
    assert four["k"] == 4 and four["pass"]["mean"] == pytest.approx(sum(passed) / len(passed))


@pytest.mark.parametrize(
    ("rows", "arguments", "expected"),
    [
        ([{"responses": ["1"]}], [], "no column 'answer'"),
        ([{"responses": ["1"], "answer": "none"}], [], "in 'answer' that is a number"),
        ([{"responses": ["1"], "answer": None}], [], "no row has an answer in 'answer'"),
        ([{"responses": [], "answer": 1}], [], "pool.jsonl:1: no list of 'responses'"),
        (
            [{"responses": ["1"], "answer": 1}],
            ["--score-column", "scores"],
            "pool.jsonl:1 no 'scores'",
        ),
        ([{"responses": ["1"], "answer": 1}], ["--k", "2"], "more than 1 responses"),
        ([{"responses": ["1"], "answer": 1}], ["--weighted"], "--weighted no scores"),
        ([{"responses": ["1"], "answer": 1}], ["--tolerance", "-1"], "--tolerance"),
        (
            [{"responses": ["1"], "answer": 1, "myscores": ["x"]}],
            ["--score-column", "myscores"],
            "score 0 is a string",
        ),
        (
            [{"responses": ["1"], "answer": 1, "myscores": [1, 2]}],
            ["--score-column", "myscores"],
            "one score for each of 1 responses",
        ),
        (
            [{"responses": ["1"], "scores": [-1], "answer": 1}],
            ["--score-column", "scores", "--weighted"],
            "negative scores --weighted sigmoid",
        ),
    ],
)
def test_what_is_no_pool_is_refused_in_one_line(tmp_path, capsys, rows, arguments, expected):
    file = write(tmp_path / "pool.jsonl", *rows)
    assert main(["eval-pool", file, *arguments]) == 2
    error = capsys.readouterr().err
    assert says(error, expected) and error.count("\n") == 1


def test_gzip_is_read_and_a_run_folder_is_not_a_pool(tmp_path, capsys):
    packed = tmp_path / "pool.jsonl.gz"
    with gzip.open(packed, "wt") as file:
        file.write(json.dumps({"responses": ["1"], "answer": 1}) + "\n")
    assert report(capsys, str(packed))["right"] == 1
    iteration = tmp_path / "run" / "iterations" / "001"
    iteration.mkdir(parents=True)
    write(iteration / "rollouts.jsonl", {"id": "a", "responses": ["1"], "scores": [1]})
    assert main(["eval-pool", str(tmp_path / "run")]) == 2
    assert says(capsys.readouterr().err, "run is a run folder")
