"""From plain settings to a combination: what one config line can say, and what it may not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from wording import words

from rewards.build import build_reward
from rewards.combine.build import build_combined
from rewards.combine.reward import CombinedReward
from rewards.spec_reader import read_reward
from rollout.types import Completion, Group, InputError, Prompt

LENGTH = {"kind": "function", "function": "length"}
WORDS = [
    Group(
        Prompt("p", "?"),
        tuple(Completion(text, (1,) * len(text), "stop") for text in ("a", "a b", "a b c d")),
        policy_version=0,
    )
]


def combined(**settings: Any) -> CombinedReward:
    reward = build_reward("combine", **settings)
    assert isinstance(reward, CombinedReward)
    return reward


def scores(**settings):
    return combined(**settings).score_groups(WORDS)


def test_members_become_rewards_with_weights_and_scales():
    members = [
        {**LENGTH, "weight": 2, "normalise": {"mean": 1, "std": 1}},
        {**LENGTH, "arguments": {"unit": "chars"}, "weight": -1, "name": "chars"},
    ]
    assert scores(members=members) == [[0 - 1.0, 2 - 3.0, 6 - 7.0]]
    assert scores(members=members[:1], reduce="mean") == [[0.0, 2.0, 6.0]]


def test_everything_at_once(tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_text(json.dumps({"scores": [1.0, 3.0]}) + "\n")
    found = scores(
        members=[{**LENGTH, "normalise": {"from": str(path)}}, {**LENGTH, "name": "again"}],
        reduce="mean_minus_std",
        std_weight=0.5,
        length_penalty={"per": "token", "weight": 0.1, "above": 2},
        debias={"penalty": 0.5, "mean": 1, "std": 1, "scale": 2},
    )
    # members n − 2 and n: mean n − 1, std 1; tokens 1, 3, 7; words 1, 2, 4
    expected = [n - 1 - 0.5 - 0.1 * max(0, t - 2) - (n - 1) for n, t in ((1, 1), (2, 3), (4, 7))]
    assert found == [pytest.approx(expected)]


def test_scores_that_only_compare_samples_of_a_prompt_are_announced(caplog):
    combined(members=[LENGTH, {**LENGTH, "name": "z", "normalise": "group"}])
    assert [record.getMessage()[:27] for record in caplog.records] == [
        "member 'z': normalise group"
    ]


def test_combinations_nest():
    inner = {
        "kind": "combine",
        "members": [LENGTH, {**LENGTH, "weight": -1}],
        "reduce": "min",
        "weight": 3,
    }
    assert scores(members=[inner]) == [[-3.0, -6.0, -12.0]]


def test_names_are_the_functions_and_told_apart():
    reward = combined(members=[LENGTH, LENGTH, {**LENGTH, "name": "own"}])
    assert [one.name for one in reward.members] == ["length [0]", "length [1]", "own"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"members": []}, "needs members"),
        ({"members": "length"}, "members"),
        ({"members": None}, "needs members"),
        ({"members": ["length"]}, "members.0 section"),
        ({"members": [LENGTH, {"kind": "oracle"}]}, "members.1.kind 'oracle' not one of"),
        ({"members": [{**LENGTH, "weight": 0}]}, "members[0].weight: 0"),
        ({"members": [{**LENGTH, "normalise": "z"}]}, "members[0].normalise: 'z'"),
        ({"members": [LENGTH], "reduce": "median"}, "reduce is 'median' not one of"),
        ({"members": [LENGTH], "length_penalty": 3}, "length_penalty section"),
        (
            {"members": [LENGTH], "length_penalty": {"above": 1}},
            "length_penalty: weight is missing",
        ),
        ({"members": [LENGTH], "length_penalty": {"weight": 0}}, "weight: 0 must be more than 0"),
        ({"members": [LENGTH], "length_penalty": {"weight": 1, "above": -1}}, "above: -1 must be"),
        ({"members": [LENGTH], "length_penalty": {"weight": 1, "per": "words"}}, "per: 'words'"),
        ({"members": [LENGTH], "length_penalty": {"weigth": 1}}, "unknown key 'weigth'"),
        ({"members": [LENGTH], "debias": {"penalty": 1}}, "debias reference"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_their_place(settings, expected):
    with pytest.raises(InputError, match=words(expected)) as caught:
        build_reward("combine", **settings)
    assert "\n" not in str(caught.value)


def test_nothing_is_loaded_for_settings_that_cannot_work():
    def never(member):
        raise AssertionError("a model was loaded in vain")

    for wrong in ({"std_weight": 2}, {"members": [{**LENGTH, "weight": 0}]}):
        spec = read_reward({"kind": "combine", "members": [LENGTH], **wrong}, "reward")
        with pytest.raises(InputError):
            build_combined(spec, never)  # type: ignore[arg-type]
