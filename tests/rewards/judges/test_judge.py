"""Probabilities against the card's own computation: full logits, one row at a time."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import tiny_judges as tiny
import tiny_rewards

from rewards import RewardError, ScalarJudge, load_judge, load_reward
from rewards.types import Comparison

CONTEXT = tiny_rewards.chat("first question " * 6, "an answer", "and a second question?")
COMPARISONS = [
    tiny.compared("what?", "this", "that, at some more length " * 4),
    tiny.compared(CONTEXT, "yes", "no"),
    tiny.compared(CONTEXT, "no", "maybe"),
    tiny.compared(CONTEXT, "", "not empty"),
    tiny.compared("deleted: <|begin_of_text|>", "x<|begin_of_text|>", "naïve"),
    tiny.compared(CONTEXT, "maybe", "yes"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("judges")
    return {
        "untied, always": tiny.checkpoint(root / "a"),
        "tied, fixed": tiny.checkpoint(root / "b", tiny.tokenizer(tiny.FIXED), tied=True),
        "soft-capped": tiny.checkpoint(root / "c", family="gemma2", final_logit_softcapping=0.5),
        "scaled": tiny.checkpoint(root / "d", family="cohere", logit_scale=0.25),
        "large": tiny.scale_labels(tiny.checkpoint(root / "e"), 3000.0),
    }  # fmt: skip


@pytest.fixture(scope="module")
def judge(folders):
    return load_judge(folders["untied, always"], kind="pairwise")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["untied, always", "tied, fixed", "soft-capped", "scaled"])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_probabilities_alone_and_in_mixed_batches_are_the_cards(folders, name, layout, monkeypatch):
    from rewards.inference.backbone import Backbone

    if layout == "padded":
        monkeypatch.setattr(Backbone, "_why_not_packed", lambda self: "padded is under test")
    expected = [tiny.card_probability(folders[name], one) for one in COMPARISONS]
    assert np.std(expected) > 1e-3  # a constant would prove nothing
    for batch_tokens in (1, 700, 100_000):
        judge = load_judge(folders[name], kind="pairwise", batch_tokens=batch_tokens)
        assert judge.describe()["layout"] == layout
        found = judge.compare(COMPARISONS)
        assert found.shape == (len(COMPARISONS),) and found.dtype == np.float64
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert judge.forward_passes == 2 * len(COMPARISONS)


def test_verdicts_hold_log_odds_of_both_orders(folders, judge):
    d1, d2 = np.array([tiny.card_log_odds(folders["untied, always"], one) for one in COMPARISONS]).T
    verdicts = judge.verdicts(COMPARISONS)
    np.testing.assert_allclose(verdicts.margin_N, (d1 - d2) / 2, atol=1e-5)
    shown_first = 1 / (1 + np.exp(-d1))
    shown_second = 1 - 1 / (1 + np.exp(-d2))
    np.testing.assert_allclose(verdicts.gap_N, shown_first - shown_second, atol=1e-5)
    assert np.abs(verdicts.gap_N).max() > 0.01 and not verdicts.missing_N.any()


def test_temperature_divides_log_odds(folders):
    folder = folders["untied, always"]
    judge = load_judge(folder, kind="pairwise", temperature=0.3)
    expected = [tiny.card_probability(folder, one, temperature=0.3) for one in COMPARISONS]
    np.testing.assert_allclose(judge.compare(COMPARISONS), expected, atol=1e-5)
    assert judge.describe()["temperature"] == 0.3


@pytest.mark.parametrize("name", ["untied, always", "soft-capped", "large"])
def test_a_comparison_and_its_swap_add_up_to_one(folders, name):
    judge = load_judge(folders[name], kind="pairwise")
    swapped = judge.compare([one.swap() for one in COMPARISONS])
    np.testing.assert_allclose(judge.compare(COMPARISONS) + swapped, 1, atol=1e-6)
    together = judge.compare([*COMPARISONS, *(one.swap() for one in COMPARISONS)])
    half = len(COMPARISONS)
    np.testing.assert_allclose(together[:half] + together[half:], 1, atol=1e-6)


def test_log_odds_of_ten_thousand_neither_overflow_nor_warn(folders):
    d = np.array([tiny.card_log_odds(folders["large"], one) for one in COMPARISONS])
    assert np.abs(d).max() > 1e4
    judge = load_judge(folders["large"], kind="pairwise")
    with np.errstate(all="raise", under="ignore"):
        found = judge.compare(COMPARISONS)
    assert np.isfinite(found).all() and set(np.round(found, 6)) <= {0.0, 0.5, 1.0}
    expected = [tiny.card_probability(folders["large"], one) for one in COMPARISONS]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_equal_responses_tie_exactly(judge):
    same = tiny.compared(CONTEXT, "the same", "the same")
    verdicts = judge.verdicts([same, COMPARISONS[0]])
    assert verdicts.probability_N[0] == 0.5 and verdicts.margin_N[0] == 0


def test_equal_comparisons_are_computed_once_and_counted_once(folders):
    judge = load_judge(folders["untied, always"], kind="pairwise")
    copy = Comparison([dict(turn) for turn in CONTEXT], "yes", "no")  # type: ignore[list-item]
    found = judge.compare([COMPARISONS[1], COMPARISONS[0], copy, COMPARISONS[1]])
    assert judge.forward_passes == 4
    assert found[0] == found[2] == found[3] != found[1]
    judge.compare([copy])
    assert judge.forward_passes == 6
    assert judge.compare([]).shape == (0,) and judge.forward_passes == 6


def test_log_odds_that_are_not_finite_raise_or_are_missing(tmp_path):
    folder = tiny.checkpoint(tmp_path)
    tiny_rewards.poison(folder, tiny.tokenizer())
    asked = [tiny.compared("q", "a", "b"), tiny.compared("q", "a", "Z")]
    with pytest.raises(RewardError, match="comparison 1") as caught:
        load_judge(folder, kind="pairwise").compare(asked)
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    lenient = load_judge(folder, kind="pairwise", non_finite="missing").verdicts(asked)
    assert lenient.missing_N.tolist() == [False, True]
    assert np.isnan(lenient.probability_N).tolist() == [False, True]


def test_head_works_in_float32_under_a_half_precision_model(folders, judge):
    half = load_judge(folders["untied, always"], kind="pairwise", dtype="bfloat16")
    assert half.describe()["dtype"] == "bfloat16"
    np.testing.assert_allclose(half.compare(COMPARISONS), judge.compare(COMPARISONS), atol=0.1)


def test_scalar_judge_is_bradley_terry(tmp_path):
    reward = load_reward(tiny_rewards.checkpoint(tmp_path, "llama"))
    asked = [
        tiny.compared(CONTEXT, "yes", "no"),
        tiny.compared("what?", "a", "b"),
        tiny.compared(CONTEXT, "no", "maybe"),
    ]
    judge = ScalarJudge(reward)
    verdicts = judge.verdicts(asked)
    assert judge.forward_passes == 5  # "no" is scored once
    score = {
        (one.prompt[0]["content"], text): float(
            reward.score([[*one.prompt, {"role": "assistant", "content": text}]])[0]
        )
        for one in asked
        for text in (one.first, one.second)
    }
    margins = [
        score[one.prompt[0]["content"], one.first] - score[one.prompt[0]["content"], one.second]
        for one in asked
    ]
    np.testing.assert_allclose(verdicts.margin_N, margins, atol=1e-5)
    np.testing.assert_allclose(
        judge.compare(asked), 1 / (1 + np.exp(-np.array(margins))), atol=1e-5
    )
    assert (verdicts.gap_N == 0).all()
    swapped = judge.compare([one.swap() for one in asked])
    np.testing.assert_allclose(judge.compare(asked) + swapped, 1, atol=1e-6)
    assert judge.describe()["judge"] == "scalar" and judge.describe()["kind"] == "classifier"


def test_prompts_that_differ_in_a_call_alone_are_two():
    class Counting:
        def score_groups(self, groups):
            self.sizes = [len(group.completions) for group in groups]
            scores: list[list[float | None]] = [[1.0] * size for size in self.sizes]
            return scores

    def prompt(*calls):
        called = {"role": "assistant", "content": "", "tool_calls": [*calls]}
        return [{"role": "user", "content": "q"}, called]

    reward, asked = Counting(), [prompt({"name": "add"}), prompt({"name": "sub"}), "q"]
    judge = ScalarJudge(reward)
    judge.compare([Comparison(one, "a", "b") for one in [*asked, asked[0]]])
    assert reward.sizes == [2, 2, 2]


def test_scalar_judge_passes_missing_scores_on():
    class Missing:
        def score_groups(self, groups):
            return [[None if one.text == "?" else 1.0 for one in g.completions] for g in groups]

    found = ScalarJudge(Missing()).compare(
        [tiny.compared("q", "a", "?"), tiny.compared("q", "a", "b")]
    )
    assert np.isnan(found[0]) and found[1] == 0.5
    assert ScalarJudge(Missing()).compare([]).shape == (0,)
