"""A judge as a reward: who wins, what it costs, and what a reference changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny_judges as tiny
from wording import words

from rewards import JudgeReward, RewardError, build_reward, load_judge
from rewards.combine.reward import CombinedReward
from rewards.judges.reward import REFERENCE_FIELD
from rewards.tournament import METHODS
from rewards.tournament.verdicts import Verdicts
from rewards.types import Reward
from rollout.types import InputError


class Planted:
    """A judge that prefers the larger number in a response, with a little position bias."""

    def __init__(self, bias: float = 0.25, broken: str = "") -> None:
        self.bias = bias
        self.broken = broken
        self.batches: list[int] = []
        self.names: list[str] = []

    def verdicts(self, comparisons, names=None):
        self.batches.append(len(comparisons))
        self.names += names or []
        margin_N = np.array([_number(one.first) - _number(one.second) for one in comparisons])
        missing_N = np.array([self.broken in (one.first, one.second) for one in comparisons])
        return Verdicts.from_log_odds(margin_N + self.bias, -margin_N + self.bias, missing_N)

    def compare(self, comparisons):
        return self.verdicts(comparisons).probability_N


def _number(text: str) -> float:
    return float(text.split()[-1])


def numbers(*values: float) -> list[str]:
    return [f"response {value}" for value in values]


def filled(row: list[float | None]) -> list[float]:
    assert None not in row
    return [score for score in row if score is not None]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_planted_best_wins_by_every_method(method):
    judge = Planted()
    reward = JudgeReward(judge, tournament=method)
    assert isinstance(reward, Reward)
    rng = np.random.default_rng(0)
    groups = [tiny.group(f"p{i}", numbers(*rng.permutation(8))) for i in range(20)]
    scores = reward.score_groups(groups)
    for group, row in zip(groups, scores, strict=True):
        best = max(range(8), key=lambda k: _number(group.completions[k].text))
        assert all(isinstance(one, float) and math.isfinite(one) for one in row)
        assert int(np.argmax(np.array(row))) == best and row.count(row[best]) == 1


@pytest.mark.slow
def test_a_knockout_of_64_by_8_is_three_batches_and_exactly_896_forward_passes(tmp_path):
    judge = load_judge(tiny.checkpoint(tmp_path), kind="pairwise")
    batches = []
    verdicts = judge.verdicts
    judge.verdicts = lambda comparisons, names=None: (  # type: ignore[method-assign]
        batches.append(len(comparisons)) or verdicts(comparisons, names)
    )
    reward = JudgeReward(judge)
    groups = [tiny.group(f"p{i}", [f"{i} {k}" for k in range(8)], f"q{i}") for i in range(64)]
    scores = reward.score_groups(groups)
    assert judge.forward_passes == 2 * 7 * 64 == reward.report().forward_passes
    assert batches == [4 * 64, 2 * 64, 64]
    assert all(sorted(filled(row)) == [0, 0, 0, 0, 1, 1, 2, 3] for row in scores)


def test_standing_does_not_depend_on_batch_mates():
    groups = [tiny.group(f"p{i}", numbers(*range(7))) for i in range(5)]
    together = JudgeReward(Planted(), tournament="sequential").score_groups(groups)
    alone = [
        JudgeReward(Planted(), tournament="sequential").score_groups([one])[0]
        for one in reversed(groups)
    ]
    assert together == alone[::-1]
    assert len({tuple(row) for row in together}) > 1  # each prompt has a draw of its own
    other = JudgeReward(Planted(), tournament="sequential", seed=1).score_groups(groups)
    assert other != together


def test_equal_responses_are_one_entrant_with_one_score():
    judge = Planted()
    reward = JudgeReward(judge)
    (row,) = reward.score_groups([tiny.group("p", numbers(3, 1, 3, 2, 1))])
    assert row[0] == row[2] and row[1] == row[4] and max(filled(row)) == row[0]
    assert reward.report().comparisons == 2 == sum(judge.batches)
    # whichever of the equal ones is shown, it is named by its first place
    assert judge.names[-1].endswith("of prompt 'p'") and "responses" in judge.names[-1]
    assert reward.score_groups([tiny.group("p", ["7", "7"])]) == [[0.0, 0.0]]


def test_one_response_has_nothing_to_be_compared_with():
    with pytest.raises(InputError, match=words("'q' has one response")):
        JudgeReward(Planted()).score_groups([tiny.group("q", ["7"])])


def test_empty_and_absent_groups():
    reward = JudgeReward(Planted())
    assert reward.score_groups([]) == []
    groups = [tiny.group("none", []), tiny.group("p", numbers(1, 2)), tiny.group("none", [])]
    assert reward.score_groups(groups) == [[], [0.0, 1.0], []]


def test_report_accumulates_cost_bias_ties_and_circles():
    reward = JudgeReward(Planted(bias=0.5), tournament="round_robin", tie=0.01)
    reward.score_groups([tiny.group("a", numbers(1, 2, 3)), tiny.group("b", numbers(5, 5.001))])
    assert reward.report().comparisons == 4 and reward.report().ties == 1
    assert reward.report().triples == 1 and reward.report().intransitive == 0
    assert 0 < reward.report().position_bias < 0.25
    reward.score_groups([tiny.group("c", numbers(1, 2))])
    assert reward.report().comparisons == 5 and reward.report().prompts == 3


def test_circles_are_counted():
    class Circle:
        def compare(self, comparisons):
            gap = [(_number(one.first) - _number(one.second)) % 3 for one in comparisons]
            return np.array([0.9 if one == 1 else 0.1 for one in gap])

    reward = JudgeReward(Circle(), tournament="round_robin")
    reward.score_groups([tiny.group("a", numbers(0, 1, 2))])
    assert reward.report().intransitive == reward.report().triples == 1
    assert reward.report().both_orders == 0 and math.isnan(reward.report().position_bias)


@pytest.mark.parametrize("as_verdicts", [True, False])
def test_a_missing_verdict_makes_its_group_missing(as_verdicts):
    judge = Planted(broken="response 2")
    if not as_verdicts:

        class Plain:
            compare = staticmethod(judge.compare)

        judge = Plain()
    reward = JudgeReward(judge)
    groups = [tiny.group("a", numbers(1, 2)), tiny.group("b", numbers(3, 4))]
    assert reward.score_groups(groups) == [[None, None], [0.0, 1.0]]
    assert reward.report().missing == 1


def test_errors_name_responses_and_prompt(tmp_path):
    judge = load_judge(tiny.checkpoint(tmp_path), kind="pairwise", max_length=200)
    with pytest.raises(RewardError, match=r"responses 0 and 2 of prompt 'long'|responses 2 and 0"):
        JudgeReward(judge).score_groups([tiny.group("long", ["a", "a", "x" * 300])])


def test_with_references_the_score_is_the_probability_of_beating_ones_own():
    judge = Planted(bias=0.5)
    reward = JudgeReward(judge, tie=0.01)
    references = numbers(2, 2, 2, 2)
    groups = [
        tiny.group("a", numbers(1, 2, 3, 3), **{REFERENCE_FIELD: references}),
        tiny.group("plain", numbers(1, 2)),
        tiny.group("b", numbers(7), **{REFERENCE_FIELD: numbers(9)}),
    ]
    first, plain, second = reward.score_groups(groups)
    alone = judge.compare(
        [tiny.compared("what?", f"response {v}", "response 2") for v in (1, 2, 3)]
    )
    np.testing.assert_allclose(filled(first), [*alone, alone[2]], atol=1e-12)
    assert first[1] == 0.5 and plain == [0.0, 1.0] and 0 < filled(second)[0] < 0.5
    report = reward.report()
    assert report.comparisons == 4 + 1 + 1 and report.ties == 1 and report.prompts == 3
    assert report.triples == 0 and report.position_bias > 0
    assert judge.batches[0] == 5  # references of all groups in one batch


def test_a_policy_ties_with_itself_unasked():
    judge = Planted()
    own = tiny.group("p", numbers(1, 2), **{REFERENCE_FIELD: None})
    assert JudgeReward(judge).score_groups([own]) == [[0.5, 0.5]]
    assert not judge.batches


def test_taking_the_report_begins_another():
    reward = JudgeReward(Planted())
    reward.score_groups([tiny.group("p", numbers(1, 2, 3))])
    assert reward.take_report().comparisons == 2 and reward.report().comparisons == 0


def test_comparisons_are_those_of_the_last_call():
    judge = Planted()
    reward = JudgeReward(judge, tournament="round_robin")
    reward.score_groups([tiny.group("earlier", numbers(1, 2))])
    # equal texts are one entrant, which the first of them stands for
    groups = [tiny.group("p", numbers(3, 1, 3)), tiny.group("q", numbers(5, 5))]
    reward.score_groups(groups)
    found = reward.comparisons()
    chance = judge.compare([tiny.compared("what?", "response 3", "response 1")])[0]
    assert found.keys() == {"p", "q"} and found["q"] == []
    assert found["p"] == [[0, 1, pytest.approx(chance)]]
    # of a combination, where one judge compared; beside it a combination that asks none
    scalar = CombinedReward([build_reward(kind="function", function="length")])
    both = CombinedReward([reward, scalar], names=["judge", "scalar"])
    both.score_groups(groups)
    assert both.comparisons() == found and scalar.comparisons() == {}
    two = CombinedReward([reward, JudgeReward(Planted())], names=["one", "other"])
    two.score_groups(groups)
    assert two.comparisons() == {}


def test_a_missing_duel_is_missing_alone():
    reward = JudgeReward(Planted(broken="response 2"))
    fields = {REFERENCE_FIELD: numbers(5, 5)}
    (row,) = reward.score_groups([tiny.group("a", numbers(5, 2), **fields)])
    assert row == [0.5, None] and reward.report().missing == 1


@pytest.mark.parametrize("references", ["one text", numbers(1), [1, 2]])
def test_references_that_do_not_match_are_refused(references):
    group = tiny.group("p7", numbers(1, 2), **{REFERENCE_FIELD: references})
    with pytest.raises(InputError, match="'p7': reference_responses") as caught:
        JudgeReward(Planted()).score_groups([group])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"tournament": "lottery"},
        {"tie": 0.5},
        {"budget": -1},
        {"score": "copeland"},
        {"tournament": "round_robin", "score": "loudest"},
        {"tournament": "swiss", "rounds": 0},
    ],
)
def test_settings_that_no_tournament_has_are_refused_at_once(settings):
    with pytest.raises(InputError):
        JudgeReward(Planted(), **settings)


def test_budget_reaches_the_tournament():
    groups = [tiny.group("p", numbers(*range(8)))]
    reward = JudgeReward(Planted(), tournament="round_robin", score="bradley_terry", budget=12)
    reward.score_groups(groups)
    assert reward.report().comparisons == 12
    with pytest.raises(InputError, match="budget=3"):
        JudgeReward(Planted(), budget=3).score_groups(groups)


def test_a_judge_is_built_from_its_spec(monkeypatch):
    seen = {}

    def load(model, **settings):
        seen.update(settings, model=model)
        return Planted()

    monkeypatch.setattr("rewards.judges.load.load_judge", load)
    reward = build_reward("pairwise", model="m", temperature=2.0, tournament="swiss", rounds=2)
    assert seen == {"model": "m", "kind": "pairwise", "temperature": 2.0}
    assert isinstance(reward, JudgeReward) and reward.describe()["rounds"] == 2
    with pytest.raises(InputError, match="loading: unknown key"):
        build_reward("pairwise", model="m", loading=1)
    seen.clear()
    with pytest.raises(InputError):
        build_reward("pairwise", model="m", tournament="lottery")
    assert not seen, "the tournament is looked at before a model is loaded"


def test_describe_and_moving():
    judge = Planted()
    reward = JudgeReward(judge, tournament="swiss", rounds=2, seed=7)
    described = reward.describe()
    assert described["tournament"] == "swiss" and described["rounds"] == 2
    assert described["seed"] == 7 and described["name"] == "Planted"
    reward.to("cpu")  # a judge that cannot be moved stays
    moved = []
    judge.to = moved.append  # type: ignore[attr-defined]
    reward.to("cpu")
    assert moved == ["cpu"]
