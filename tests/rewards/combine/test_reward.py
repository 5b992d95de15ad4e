"""Combined rewards: closed forms, what permuting and splitting may not change, loud failures."""

from __future__ import annotations

import math
import pickle
import statistics
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wording import words

from rewards.combine.debias import Debias
from rewards.combine.length import LengthPenalty, response_length
from rewards.combine.reward import CombinedReward
from rewards.types import Reward, RewardError
from rollout.types import Completion, Group, InputError, Message, Prompt


@dataclass
class Listed:
    """Scores listed per prompt id; a conversation's is that of its first word."""

    scores: dict[str, Any]
    name: str = "listed"
    moved: list[str] = field(default_factory=list)

    def score_groups(self, groups):
        return [self.scores[group.prompt.id] for group in groups]

    def score(self, conversations):
        values = [self.scores[turns[0]["content"]] for turns in conversations]
        return np.array([math.nan if value is None else value for value in values], np.float32)

    def to(self, device):
        self.moved.append(device)

    def describe(self):
        return {"name": self.name}


class GroupsOnly:
    def score_groups(self, groups) -> Any:
        return [[0.0] * len(group.completions) for group in groups]


def group(id, count, text="a b c"):
    one = Completion(text, (1, 2, 3, 4), "stop")
    return Group(Prompt(id, "?"), (one,) * count, policy_version=0)


def combined_of(scores_MK, **settings):
    """The combination's scores (K,) of one prompt."""
    members = [Listed({"p": list(scores)}, f"m{m}") for m, scores in enumerate(scores_MK)]
    (row,) = CombinedReward(members, **settings).score_groups([group("p", len(scores_MK[0]))])
    return row


def test_weighted_sum_of_sources_on_their_own_scales():
    row = combined_of(
        [[1.0, 3.0], [10.0, 30.0], [0.0, 0.0]],
        weights=[2, -0.5, 4.0],
        normalise=["none", {"mean": 20, "std": 10}, "sigmoid"],
    )
    assert row == [2 * 1 - 0.5 * -1 + 4 * 0.5, 2 * 3 - 0.5 * 1 + 4 * 0.5]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"reduce": "sum"}, [9.0, 0.0]),
        ({"reduce": "mean"}, [3.0, 0.0]),
        ({"reduce": "min"}, [1.0, 0.0]),
        # members 1, 3, 5: population variance 8/3
        ({"reduce": "mean_minus_std"}, [3 - math.sqrt(8 / 3), 0.0]),
        ({"reduce": "mean_minus_std", "std_weight": 0.5}, [3 - 0.5 * math.sqrt(8 / 3), 0.0]),
        ({"reduce": "mean_minus_std", "std_weight": 0}, [3.0, 0.0]),
        ({"reduce": "min", "weights": [1, -1, 1]}, [-3.0, 0.0]),
    ],
)
def test_reductions(settings, expected):
    assert combined_of([[1.0, 0.0], [3.0, 0.0], [5.0, 0.0]], **settings) == pytest.approx(expected)


def test_members_that_agree_have_no_spread_to_pay_for():
    # 0.1 + 0.1 + 0.1 is not 3 · 0.1: a std by rounded mean would not be 0
    row = combined_of([[0.1]] * 3, reduce="mean_minus_std", std_weight=1e20)
    assert row == pytest.approx([0.1])


number = st.floats(-1e6, 1e6)
maybe = st.none() | number
reductions = st.sampled_from(["sum", "mean", "min", "mean_minus_std"])
normalisers = st.sampled_from(["none", "group", "rank", "sigmoid", {"mean": 1.0, "std": 3.0}])


@st.composite
def parties(draw):
    """Members' scores (M, P, K) and settings."""
    count, prompts, k = draw(st.integers(2, 4)), draw(st.integers(1, 3)), draw(st.integers(0, 4))
    scores = draw(
        st.lists(
            st.lists(st.lists(maybe, min_size=k, max_size=k), min_size=prompts, max_size=prompts),
            min_size=count,
            max_size=count,
        )
    )
    weights = draw(
        st.lists(st.sampled_from([-2.0, -0.3, 0.1, 1.0]), min_size=count, max_size=count)
    )
    normalise = draw(st.lists(normalisers, min_size=count, max_size=count))
    return scores, weights, normalise, draw(reductions)


def run(scores_MPK, weights, normalise, reduce):
    members = [
        Listed({str(p): row for p, row in enumerate(rows)}, f"m{m}")
        for m, rows in enumerate(scores_MPK)
    ]
    reward = CombinedReward(members, weights=weights, normalise=normalise, reduce=reduce)
    groups = [group(str(p), len(row)) for p, row in enumerate(scores_MPK[0])]
    return reward, groups, reward.score_groups(groups)


@pytest.mark.slow
@given(parties(), st.randoms())
def test_the_order_of_members_changes_no_bit(party, random):
    scores, weights, normalise, reduce = party
    order = list(range(len(scores)))
    random.shuffle(order)
    moved = ([scores[m] for m in order], [weights[m] for m in order], [normalise[m] for m in order])
    assert run(*moved, reduce)[2] == run(*party)[2]


@pytest.mark.slow
@given(parties())
def test_batches_change_no_bit_and_failures_spread(party):
    reward, groups, scores_PK = run(*party)
    assert [reward.score_groups([one])[0] for one in groups] == scores_PK
    for p, row in enumerate(scores_PK):
        for k, score in enumerate(row):
            failed = any(member[p][k] is None for member in party[0])
            assert (score is None) == failed
            assert score is None or (type(score) is float and math.isfinite(score))


@given(st.lists(st.lists(number, min_size=3, max_size=3), min_size=2, max_size=4), reductions)
def test_reductions_agree_with_the_standard_library(scores_MK, reduce):
    expected = []
    for values in zip(*scores_MK, strict=True):
        mean = statistics.fmean(values)
        expected.append(
            {
                "sum": mean * len(values),
                "mean": mean,
                "min": min(values),
                "mean_minus_std": mean - statistics.pstdev(values),
            }[reduce]
        )
    assert combined_of(scores_MK, reduce=reduce) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_missing_samples_do_not_move_the_others_out_of_place():
    row = combined_of([[1.0, None, 3.0], [None, 5.0, 7.0]], normalise=["group", "none"])
    assert row == [None, None, 1.0 + 7.0]


# -------------------------------------------------------------------------------------- lengths


def test_length_penalty_by_hand():
    # "a b c": 3 words, 5 characters, 4 tokens
    for per, length in (("word", 3), ("char", 5), ("token", 4)):
        penalty = LengthPenalty(weight=0.5, above=1, per=per)  # type: ignore[arg-type]
        assert combined_of([[10.0]], length_penalty=penalty) == [10 - 0.5 * (length - 1)]
    assert combined_of([[10.0]], length_penalty=LengthPenalty(0.5, above=3)) == [10.0]
    assert combined_of([[10.0]], length_penalty=LengthPenalty(0.5, above=300)) == [10.0]


def test_tokens_are_counted_only_where_they_are_known():
    with pytest.raises(InputError, match="token ids"):
        response_length(Completion("a b", (), "stop"), "token")
    assert response_length(Completion("", (), "stop"), "token") == 0


def test_debiasing_by_length_by_hand():
    debias = Debias(penalty=0.1, mean=2, std=4, scale=8)
    assert combined_of([[1.0]], debias=debias) == pytest.approx([1 - 0.1 * (3 - 2) / 4 * 8])


def test_debiasing_by_a_member_takes_it_out_of_the_sum():
    debias = Debias(penalty=0.5, mean=0, std=1, scale=1, member="m1")
    assert combined_of([[1.0, 2.0, 3.0], [4.0, None, 6.0]], debias=debias) == [-1.0, None, 0.0]


def test_both_are_taken_off_the_reduced_score():
    settings: dict[str, Any] = {
        "length_penalty": LengthPenalty(1.0),
        "debias": Debias(1.0, mean=0, std=1, scale=2),
    }
    assert combined_of([[1.0], [2.0]], reduce="min", **settings) == [1 - 3 - 6]


# -------------------------------------------------------------------------------- conversations


def talk(prompt, response="a b c"):
    return [Message(role="user", content=prompt), Message(role="assistant", content=response)]


def test_conversations_score_as_groups_do():
    members = [
        Listed({"x": 1.0, "y": None, "z": 3.0}, "one"),
        Listed({"x": 2.0, "y": 5.0, "z": 4.0}, "two"),
    ]
    reward = CombinedReward(
        members,
        weights=[1, -2],
        normalise=["sigmoid", {"mean": 1, "std": 2}],
        length_penalty=LengthPenalty(0.25, above=1),
    )
    scores = reward.score([talk("x"), talk("y"), talk("z", "a")])
    assert scores.dtype == np.float32
    sigmoid = [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-3))]
    np.testing.assert_allclose(scores, [sigmoid[0] - 1 - 0.5, np.nan, sigmoid[1] - 3], rtol=1e-6)
    assert reward.score([]).shape == (0,)


@pytest.mark.parametrize("normalise", ["group", "rank"])
def test_conversations_have_no_group(normalise):
    reward = CombinedReward([Listed({"x": 1.0})], normalise=[normalise])
    with pytest.raises(InputError, match=words(f"normalise {normalise} needs the other samples")):
        reward.score([talk("x")])


def test_conversations_need_members_that_read_them():
    with pytest.raises(InputError, match=words("member 'GroupsOnly' groups only")):
        CombinedReward([GroupsOnly()]).score([talk("x")])


def test_plain_texts_have_no_length_of_a_response():
    class Sizes:
        def score_groups(self, groups):
            return []

        def score(self, texts):
            return np.array([len(text) for text in texts], np.float32)

    assert CombinedReward([Sizes()]).score(["abc"]).tolist() == [3]
    with pytest.raises(InputError, match=words("length plain text")):
        CombinedReward([Sizes()], length_penalty=LengthPenalty(1.0)).score(["abc"])
    with pytest.raises(InputError, match="token ids"):
        CombinedReward([Sizes()], length_penalty=LengthPenalty(1.0, per="token")).score([talk("x")])


# ------------------------------------------------------------------------------------- failures


class Failing:
    name = "judge"

    def __init__(self, result):
        self.result = result

    def score_groups(self, groups) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (RewardError("out of memory"), "'judge': out of memory"),
        ([[1.0]], "returned 1 scores in 1 groups for 3 samples in 2"),
        ([[1.0], [1.0, 2.0]], "returned 3 scores in 2 groups for 3 samples in 2"),
        ([[1.0, 2.0], [math.nan]], "gave nan for prompt 'b'"),
        ([[math.inf, 2.0], [1.0]], "gave inf for prompt 'a'"),
        ([["1", 2.0], [1.0]], "returned '1' for prompt 'a'"),
    ],
)
def test_a_members_failure_is_the_wholes(result, expected):
    listed = Listed({"a": [1.0, 2.0], "b": [1.0]})
    with pytest.raises(RewardError, match=words(expected)) as caught:
        CombinedReward([listed, Failing(result)]).score_groups([group("a", 2), group("b", 1)])
    assert "judge" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert type(pickle.loads(pickle.dumps(caught.value))) is RewardError


def test_a_members_wrong_input_stays_the_users():
    with pytest.raises(InputError, match="'judge': row: no column answer"):
        CombinedReward([Failing(InputError("row", "no column answer"))]).score_groups([])


@pytest.mark.parametrize(
    "settings",
    [
        {"weights": [1e200, 1]},
        {"weights": [1, -1], "reduce": "sum", "normalise": [{"mean": 0, "std": 1e-300}] * 2},
        {"normalise": ["group", "none"]},
        {"reduce": "mean_minus_std"},
    ],
)
def test_what_no_float_holds_is_a_failure(settings):
    with pytest.raises(RewardError, match=r"prompt 'p'"):
        combined_of([[1e200, -1e200], [1.0, 2.0]], **settings)


def test_what_no_float32_holds_is_a_failure():
    with pytest.raises(RewardError, match="float32"):
        CombinedReward([Listed({"x": 1.0})], weights=[1e40]).score([talk("x")])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"weights": [0, 1]}, "members[0].weight: 0 pays for scores"),
        ({"weights": [1, math.nan]}, "members[1].weight: nan is no finite number"),
        ({"weights": [1, True]}, "members[1].weight: True is no finite number"),
        ({"weights": [1, "2"]}, "members[1].weight: '2' is no finite number"),
        ({"weights": [1, 10**400]}, "members[1].weight"),
        ({"weights": [1]}, "weights: 1 for 2 members"),
        ({"normalise": ["none"]}, "normalise: 1 for 2 members"),
        ({"names": ["a", "a"]}, "2 are called 'a'"),
        ({"reduce": "max"}, "reduce: 'max' sum, mean, min, mean_minus_std"),
        ({"reduce": "mean", "std_weight": 1}, 'std_weight: reduce "mean" has no use for it'),
        ({"reduce": "mean_minus_std", "std_weight": -1}, "std_weight: -1 must be 0 or more"),
        ({"debias": Debias(1, 0, 1, 1, member="v")}, "member 'v' 'a' 'b'"),
        (
            {"debias": Debias(1, 0, 1, 1, member="a"), "weights": [2, 1]},
            "'a' measures verbosity and is no term",
        ),
        (
            {"debias": Debias(1, 0, 1, 1, member="a"), "reduce": "mean_minus_std"},
            "mean_minus_std needs two members",
        ),
    ],
)
def test_settings_that_contradict_are_refused(settings, expected):
    with pytest.raises(InputError, match=words(expected)) as caught:
        CombinedReward([Listed({}, "a"), Listed({}, "b")], **settings)
    assert "\n" not in str(caught.value)


def test_too_few_members_are_refused():
    with pytest.raises(InputError, match="none given"):
        CombinedReward([])
    with pytest.raises(InputError, match=words("mean_minus_std two members")):
        CombinedReward([Listed({})], reduce="mean_minus_std")
    with pytest.raises(InputError, match="only member"):
        CombinedReward([Listed({}, "v")], debias=Debias(1, 0, 1, 1, member="v"))


# ------------------------------------------------------------------------------------ the rest


def test_it_is_a_reward_that_nests_moves_and_describes_itself():
    inner = Listed({"p": [1.0, 2.0]}, "inner")
    nested = CombinedReward([CombinedReward([inner], weights=[3]), GroupsOnly()], weights=[2, 1])
    assert isinstance(nested, Reward)
    assert nested.score_groups([group("p", 2)]) == [[6.0, 12.0]]
    nested.to("cpu")
    assert inner.moved == ["cpu"]
    described = cast("dict[str, Any]", nested.describe())
    assert described["members"][0]["reward"]["members"][0] == {
        "name": "inner", "weight": 3.0, "normalise": {"kind": "none"}, "reward": {"name": "inner"},
    }  # fmt: skip
    assert described["members"][1]["name"] == "GroupsOnly"
    assert pickle.loads(pickle.dumps(nested)).score_groups([group("p", 2)]) == [[6.0, 12.0]]


def test_members_of_one_name_are_told_apart():
    reward = CombinedReward([Listed({}), Listed({}), GroupsOnly()])
    assert [one.name for one in reward.members] == ["listed [0]", "listed [1]", "GroupsOnly"]


def test_nothing_in_nothing_out():
    reward = CombinedReward([Listed({"e": []})], normalise=["group"])
    assert reward.score_groups([]) == []
    assert reward.score_groups([group("e", 0)]) == [[]]
