"""The built-in reward functions, against answers known from elsewhere."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.functions import exact_match, length, numeric_match, regex, word_list
from rewards.functions.numeric_match import read_number, read_reference
from rollout.types import InputError


def rows(path):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def one(function, completion, **settings):
    (score,) = function(["p"], [completion], **settings)
    return score


def test_length_in_each_unit_plain_and_toward_a_target():
    assert one(length, "two words") == 2
    assert one(length, "two words", unit="chars") == 9
    assert one(length, "two words", unit="tokens", completion_ids=[[1, 2, 3]]) == 3
    assert one(length, "two words", scale=-0.5) == -1
    assert length(["p"] * 3, ["a", "a b c", "a b"], target=2) == [-1, -1, 0]
    with pytest.raises(InputError, match="completion_ids"):
        one(length, "x", unit="tokens")
    with pytest.raises(InputError, match="chars, words, tokens"):
        one(length, "x", unit="miles")


def test_regex_modes():
    assert one(regex, "say <b>hi</b>", pattern="<b>.*</b>") == 1.0
    assert one(regex, "say <b>hi</b>", pattern="<b>.*</b>", mode="fullmatch") == 0.0
    assert one(regex, "a1b22", pattern=r"\d+", mode="count") == 2.0
    assert one(regex, "HI", pattern="hi") == 0.0
    assert one(regex, "HI", pattern="hi", ignore_case=True) == 1.0
    assert one(regex, "a\nb", pattern="a.b") == 0.0
    assert one(regex, "a\nb", pattern="a.b", dotall=True) == 1.0
    assert one(regex, "a\nb", pattern="^b") == 0.0
    assert one(regex, "a\nb", pattern="^b", multiline=True) == 1.0
    wrong: list[Any] = [{}, {"pattern": "("}, {"pattern": "a", "mode": "guess"}]
    for settings in wrong:
        with pytest.raises(InputError, match="regex"):
            regex([], [], **settings)


def test_exact_match_and_rows_without_a_reference():
    answers = ["Paris", None, ["a", "B"], 4]
    texts = [" Paris\n", "x", "b", "4"]
    assert exact_match("pppp", texts, answer=answers) == [1.0, None, 0.0, 1.0]
    assert exact_match("pppp", texts, answer=answers, ignore_case=True)[2] == 1.0
    assert exact_match("pppp", texts, answer=answers, strip=False)[0] == 0.0
    assert one(exact_match, "x", column="gold", gold=["x"]) == 1.0


@pytest.mark.parametrize("function", [exact_match, numeric_match])
def test_a_column_that_no_row_has_is_refused(function):
    with pytest.raises(InputError, match=r"'answer'.*columns: gold"):
        function(["p"], ["x"], gold=["x"])


def test_conversational_completions_are_read_too():
    messages = [{"role": "assistant", "content": "#### 5"}]
    assert one(numeric_match, messages, answer=["5"]) == 1.0
    assert one(exact_match, messages, answer=["#### 5"]) == 1.0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("first 3, then 4", "4"),
        ("so it is 72.", "72"),
        ("#### 1,234,567.50", "1234567.5"),
        ("#### $18 each, 3 left", "18"),
        ("#### 5\nLet me see: #### 6", "6"),
        ("#### none, though 3 were asked for", "3"),
        (r"7 or \boxed{8}, not 9", "8"),
        (r"\boxed{\text{about } 1{,}000\%}", "1000"),
        (r"\boxed{x = \frac{1}{2} = 0.5}", "0.5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("minus: −7", "-7"),
        ("(-4)", "-4"),
        ("16-3", "3"),
        ("10 - 3", "3"),
        ("<<16-3=13>>13", "13"),
        ("5%", "5"),
        ("**.5**", "0.5"),
        ("wait...5", "5"),
        ("3 and x2", "3"),
        ("1e3", "1000"),
        ("1,2", "2"),
    ],
)
def test_read_number(text, number):
    assert read_number(text) == Fraction(number)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        # scripts that write numbers directly behind words, and with digits of their own
        ("答案是42。", "42"),
        ("所以，小明一共有42个苹果。", "42"),
        ("答えは42です", "42"),
        ("정답은 42입니다", "42"),
        ("คำตอบคือ42", "42"),
        ("答案：４２。", "42"),
        ("الجواب ٤٢", "42"),
        # a marker counts where it holds a number, and a heading is none
        ("#### Step 2\nso it is\n\\boxed{42}", "42"),
        ("#### 1. Understand the task\nso \\boxed{42}", "42"),
        ("#### 42\n\n#### Explanation\nof 6 and 36", "42"),
        ("\\boxed{42}\n###### 7 ######", "42"),
        ("#### Step 2: conclude\nThe total is 42", "42"),
        ("#### Answer: 42", "42"),
        ("#### **42**", "42"),
        ("####\n42", "42"),
        ("\\boxed{A}, since the answer is 42", "42"),
        # LaTeX, units, powers
        (r"\boxed{42\text{ cm}^2}", "42"),
        (r"\boxed{42\,\mathrm{m}^{3}}", "42"),
        (r"\boxed{\textbf{42}}", "42"),
        (r"\boxed{90^\circ}", "90"),
        ("an area of 42 cm^2", "42"),
        (r"\boxed{\frac{-1}{2}}", "-1/2"),
        (r"\boxed{\frac{1}{-2}}", "-1/2"),
        (r"\boxed{-\frac{-1}{2}}", "1/2"),
        ("#### - 5", "-5"),
        (r"\boxed{- 5}", "-5"),
        ("The answer is - 5", "-5"),
        ("7 - 5", "5"),
        (r"\boxed{3.0 \times 10^8}", "300000000"),
        (r"\boxed{6 \cdot 10^{-3}}", "6/1000"),
        ("light does 3 × 10^8 m/s", "300000000"),
        (r"\boxed{10^3}", "1000"),
        (r"\boxed{2^{10}}", "1024"),
    ],
)
def test_numbers_as_the_field_writes_them(text, number):
    assert read_number(text) == Fraction(number)


@pytest.mark.parametrize("text", [r"\boxed{7\pi}", r"\boxed{4a-2}", r"\boxed{x = 3, y = 4}"])
def test_a_box_that_is_no_number_is_not_misread(text):
    assert read_number(f"of 7, {text}") is None


@pytest.mark.parametrize(
    ("reference", "number"),
    [
        ("72 clips", "72"),
        ("42個", "42"),
        ("5cm", "5"),
        ("x = 5", "5"),
        ("$5$", "5"),
        (r"\frac{-1}{2}", "-1/2"),
        ("9 * 2 = $18 a day\nA: 18", "18"),
        ("First 3, then she has 18 of them left.", "18"),
        *(
            (text, None)
            for text in ("", "3 + 4i", "10 or 12", "5, 7", "12:30", "3:4", "x^2", "4 a")
        ),
        *(
            (text, None)
            for text in ("2023-01-05", "5/6/2020", r"\sqrt{2}", r"2\sqrt{3}", "A: 4:30p")
        ),
    ],
)
def test_a_reference_is_a_number_as_a_whole_or_none(reference, number):
    assert read_reference(reference) == (None if number is None else Fraction(number))


@pytest.mark.parametrize(
    "text", ["", "no number", "#### ", "7 but #### nothing", "7 \\boxed{}", "x2"]
)
def test_no_number(text):
    assert read_number(text) is None
    assert one(numeric_match, text, answer=["2"]) == 0.0


@given(st.integers(-(10**12), 10**12), st.integers(0, 4), st.sampled_from(["", "$"]))
def test_a_number_is_read_however_it_is_written(units, places, currency):
    value = Decimal(units).scaleb(-places)
    sign, size = ("-" if value < 0 else ""), abs(value)
    for spelled in (f"{size:f}", f"{size:,f}"):
        written = f"{sign}{currency}{spelled}"
        for text in (
            written,
            f"#### {written}.",
            f"It is {written}%.",
            f"\\boxed{{{written}}} or 1",
        ):
            assert one(numeric_match, text, answer=[f"#### {value:f}"]) == 1.0
            assert one(numeric_match, text, answer=[f"#### {value + 1:f}"]) == 0.0


@pytest.mark.slow
@given(st.text())
def test_any_text_is_read_without_an_error(text):
    assert one(numeric_match, text, answer=["1"]) in (0.0, 1.0)


def test_references_may_be_numbers_and_one_that_is_none_scores_nothing(caplog):
    assert numeric_match("pppp", ["2.50"] * 4, answer=[2.5, "2.5", None, 3]) == [
        1.0,
        1.0,
        None,
        0.0,
    ]
    for wrong in ("no idea", True, [2], float("nan"), "4:30p", r"7\pi", "4a-2", "A", "(2, 3)"):
        assert numeric_match("pp", ["2", "2"], answer=[wrong, "2"]) == [None, 1.0]


def test_tolerance_is_absolute():
    assert one(numeric_match, "3.14", answer=["3.1416"]) == 0.0
    assert one(numeric_match, "3.14", answer=["3.1416"], tolerance=0.01) == 1.0
    assert one(numeric_match, "3.20", answer=["3.1416"], tolerance=0.01) == 0.0
    for wrong in (-1, float("nan")):
        with pytest.raises(InputError, match="tolerance"):
            numeric_match([], [], tolerance=wrong)


@pytest.mark.slow
def test_every_gold_answer_of_gsm8k_is_right_and_a_changed_one_wrong(data):
    answers = [row["answer"] for row in rows(data / "gsm8k" / "train.jsonl.gz")]
    assert len(answers) > 7000
    prompts = [""] * len(answers)
    assert set(numeric_match(prompts, answers, answer=answers)) == {1.0}
    # the reference read in the plainest way there is
    plain = [answer.split("#### ")[1].replace(",", "") for answer in answers]
    assert set(numeric_match(prompts, answers, answer=plain)) == {1.0}
    wrong = [str(int(float(number)) + 1) for number in plain]
    assert set(numeric_match(prompts, answers, answer=wrong)) == {0.0}


@pytest.mark.slow
def test_agreement_with_the_grading_of_gsm8k_s_own_model_solutions(data):
    graded = rows(data / "gsm8k" / "example_model_solutions.dev.jsonl.gz")
    models = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    for model in models:
        solutions = [row[model]["solution"] for row in graded]
        truths = [row["ground_truth"] for row in graded]
        scores = numeric_match([""] * len(graded), solutions, answer=truths)
        assert scores == [float(row[model]["is_correct"]) for row in graded]


def test_word_list_counts_as_described(tmp_path):
    lexicon = {"positive": ["happy", "Fun"], "negative": ["sad"]}
    assert one(word_list, 'So HAPPY, "fun!" and sad.', lexicon=lexicon) == 1.0
    assert one(word_list, "happy-ish sadness", lexicon=lexicon) == 0.0
    assert one(word_list, "sad sad", lexicon=lexicon) == -2.0
    path = tmp_path / "mood.json"
    path.write_text(json.dumps(lexicon))
    assert one(word_list, "happy", lexicon=str(path)) == 1.0


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"positive": []}', '{"positive": [1], "negative": []}',
     '{"positive": "happy", "negative": []}', '{"positive": ["a"], "negative": ["A"]}'],
)  # fmt: skip
def test_word_list_refuses_what_is_no_lexicon(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(InputError, match="word_list"):
        word_list([], [], lexicon=path)
    with pytest.raises(InputError, match="no lexicon"):
        word_list([], [], lexicon=tmp_path / "missing.json")
    with pytest.raises(InputError, match="missing"):
        word_list([], [])


def test_the_stories_lexicon(data):
    lexicon = data / "lexicon" / "story_mood.json"
    story = (
        'They laughed and played. Tom was sad, but his friends hugged him! "I love you," said Mum.'
    )
    # laughed, played, friends, hugged, love; sad
    assert one(word_list, story, lexicon=lexicon) == 4.0
