"""What a reward is made of: read in one way, whoever wrote it, and built from it alone."""

from __future__ import annotations

import inspect
import json
import pickle
from typing import Any

import pytest
from wording import words

from rewards.build import as_judge, build_judge, build_reward
from rewards.functions.reward import FunctionReward
from rewards.judges.load import load_judge
from rewards.judges.reward import JudgeReward
from rewards.models.load import load_reward
from rewards.remote import RemoteReward
from rewards.spec import CombineSpec, FunctionSpec, ModelSpec, PairwiseSpec, RemoteSpec
from rewards.spec_reader import read_reward, rewritten
from rollout.types import InputError

LENGTH = {"kind": "function", "function": "length"}
MEMBERS = [
    {**LENGTH, "weight": 0, "normalise": {"from": "scores.jsonl"}},
    {"kind": "pairwise", "model": "m", "tournament": "swiss", "rounds": 3, "name": "judge"},
]
EXAMPLES: list[dict[str, Any]] = [
    {**LENGTH, "arguments": {"unit": "chars", "scale": 0}},
    {"kind": "model", "model": "m", "family": "grm", "max_length": 9, "non_finite": "missing"},
    {"kind": "pairwise", "model": "m", "tie": 0.1, "budget": 5},
    {"kind": "combine", "members": MEMBERS, "length_penalty": {"weight": 1, "above": 3}},
    {"kind": "remote", "url": "http://127.0.0.1:1", "retries": 0, "protocol": "openrlhf"},
]
# what one section of config.yaml held for every kind, as earlier versions wrote it
OLD_DEFAULTS: dict[str, Any] = {
    "function": None, "arguments": {}, "model": None, "family": None, "engine": "auto",
    "format": None, "bos": None, "separator": None, "dtype": "auto", "max_length": None,
    "truncation_side": None, "batch_tokens": None, "tournament": None, "score": None,
    "rounds": None, "budget": None, "tie": None, "temperature": None, "members": [],
    "reduce": None, "std_weight": None, "length_penalty": None, "debias": None, "url": None,
    "protocol": None, "token_env": None, "timeout": None, "concurrency": None,
    "batch_size": None, "retries": None, "tokenizer": None, "non_finite": "raise",
}  # fmt: skip


def as_written_before(section: dict[str, Any], *, member: bool = False) -> dict[str, Any]:
    own = {"weight": None, "normalise": None, "name": None} if member else {}
    found = {**OLD_DEFAULTS, **own, **section}
    found["members"] = [as_written_before(one, member=True) for one in found["members"]]
    return found


@pytest.mark.parametrize("given", EXAMPLES, ids=lambda given: given["kind"])
def test_what_was_said_is_what_is_told(given: dict[str, Any]) -> None:
    spec = read_reward(given, "reward")
    assert json.loads(json.dumps(spec.given())) == given
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert read_reward(spec.model_dump(mode="json"), "reward") == spec
    assert read_reward(spec.given(), "reward") == spec


@pytest.mark.parametrize("given", EXAMPLES, ids=lambda given: given["kind"])
def test_sections_of_earlier_versions_mean_the_same(given: dict[str, Any]) -> None:
    old, spec = as_written_before(given), read_reward(given, "reward")
    assert read_reward(old, "reward") == spec
    assert rewritten(old) == spec.model_dump(mode="json")
    changed = as_written_before({**given, "non_finite": "missing"})
    assert rewritten(changed) != rewritten(old) or given["kind"] in ("model", "combine")


def test_what_is_no_reward_stays_as_it_is() -> None:
    for stored in (None, 3, {"kind": "oracle"}, {"function": "length"}):
        assert rewritten(stored) == stored


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "kind: missing"),
        ({"kind": "oracle"}, "kind 'oracle' not function, model, pairwise, combine, remote"),
        ({"kind": "function"}, "kind function needs function"),
        ({"kind": "model", "model": ""}, "kind model needs model"),
        ({"kind": "combine", "members": []}, "kind combine needs members"),
        ({**LENGTH, "model": "x"}, "kind function has no use for model"),
        ({**LENGTH, "weight": 2}, "kind function has no use for weight"),
        ({**LENGTH, "formt": "hh"}, "formt: unknown key; did you mean format?"),
        ({"kind": "model", "model": "m", "dtype": "int8"}, "dtype is 'int8' not one of auto"),
        ({"kind": "pairwise", "model": "m", "tie": 0.5}, "tie 0.5"),
        ({"kind": "combine", "members": [{"kind": "model"}]}, "members.0: kind model needs model"),
        ({"kind": "combine", "members": [{**LENGTH, "wight": 2}]}, "members.0.wight: unknown key"),
        ({"kind": "combine", "members": [LENGTH, {"weight": 2}]}, "members.1.kind: missing"),
        ({"kind": "combine", "members": [{**LENGTH, "weight": "x"}]}, "members.0.weight"),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=words(expected)) as caught:
        read_reward(given, "--reward it")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("--reward it: ")


def test_every_setting_of_what_is_built_is_one_of_the_spec() -> None:
    def settings(*builders: Any, without: tuple[str, ...]) -> set[str]:
        found = {name for one in builders for name in inspect.signature(one).parameters}
        return found - set(without)

    assert FunctionSpec.model_fields.keys() - {"kind"} == settings(FunctionReward, without=())
    assert ModelSpec.model_fields.keys() - {"kind", "model", "family"} == settings(
        load_reward, without=("path", "kind")
    )
    assert PairwiseSpec.model_fields.keys() - {"kind", "model"} == settings(
        load_judge, JudgeReward, without=("path", "kind", "judge")
    )
    assert RemoteSpec.model_fields.keys() - {"kind"} == settings(RemoteReward, without=())


def test_paths_are_made_absolute(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    assert FunctionSpec(function="mine.py:f").absolute().function == f"{tmp_path}/mine.py:f"
    assert ModelSpec(model="m").absolute().model == str(tmp_path / "m")
    assert ModelSpec(model="owner/name").absolute().model == "owner/name"
    combined = read_reward({**EXAMPLES[3], "debias": {"reference": "r.jsonl"}}, "it").absolute()
    assert isinstance(combined, CombineSpec)
    first, second = combined.members
    assert first.normalise == {"from": str(tmp_path / "scores.jsonl")}
    assert second.reward.given()["model"] == str(tmp_path / "m")
    assert combined.debias == {"reference": str(tmp_path / "r.jsonl")}


def test_a_judge_plays_by_the_rules_beside_it() -> None:
    spec = PairwiseSpec(model="m", tournament="swiss", rounds=3, temperature=2.0)
    assert (spec.rules().method, spec.rules().settings()) == ("swiss", {"rounds": 3})
    assert as_judge(spec).given() == {"kind": "pairwise", "model": "m", "temperature": 2.0}
    with pytest.raises(InputError, match="unknown"):
        as_judge(FunctionSpec(function="length"))
    with pytest.raises(InputError, match="no use for protocol"):
        build_judge("remote", url="http://127.0.0.1:1", protocol="openrlhf")


def test_a_token_reaches_the_client_and_no_file() -> None:
    spec = RemoteSpec(url="http://127.0.0.1:1", token="s3cret")
    for shown in (repr(spec), str(spec.given()), spec.model_dump_json()):
        assert "s3cret" not in shown
    function = FunctionSpec(function="length", arguments={"token": "s3cret", "unit": "chars"})
    assert function.given()["arguments"] == {"unit": "chars"}
    reward = build_reward(pickle.loads(pickle.dumps(spec)))
    assert reward._transport.address.token == "s3cret"  # type: ignore[attr-defined]
