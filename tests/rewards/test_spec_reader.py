"""Mistakes in settings are told in words of the config's file, not of the library that reads it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from raft.config.load import RunConfig, describe_keys, make_config
from raft.config.train_reward import TrainRewardConfig, make_train_config
from rollout.types import InputError

RUN = {
    "run_dir": "r", "policy": {"model": "m"}, "prompts": {"path": "p"},
    "reward": {"kind": "function", "function": "length"},
}  # fmt: skip
TRAINING = {"run_dir": "r", "model": "m", "data": ["d"]}
MEMBER = {"kind": "function", "function": "length", "weight": "x"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prompts": None}, "prompts: is null, not a section of key: value"),
        ({"prompts": "x.jsonl"}, "prompts: is 'x.jsonl', not a section of key: value"),
        ({"sampling": [1]}, "sampling: is a list, not a section of key: value"),
        ({"train": {"epochs": 0}}, "train.epochs: is 0, not more than 0"),
        ({"train": {"lora": {"target_modules": 3}}}, "train.lora.target_modules: is 3, not text"),
        ({"eval": {"prompts": []}}, "eval.prompts: is a list, not a whole number, or text"),
        ({"eval": {"prompts": 0}}, "eval.prompts: is 0, not 1 or more"),
        ({"policy": {"model": "m", "engine": "vlm"}}, "engine: is 'vlm', not one of auto, vllm"),
        ({"iterations": 2.5}, "iterations: is 2.5, not a whole number"),
        ({"seed": -1}, "seed: is -1, not 0 or more"),
        ({"sampling": {"seed_per_prompt": "maybe"}}, "is 'maybe', not true or false"),
        ({"sampling": {"stop": 3}}, "sampling.stop: is 3, not a list"),
        ({"monitor": {"stop_on": ["x"]}}, "monitor.stop_on.0: is 'x', not one of gold_patience"),
        ({"reward": {"kind": "magic"}}, "reward.kind: is 'magic', not one of function, model"),
        ({"reward": "length"}, "reward: is 'length', not a section of key: value"),
        (
            {"reward": {"kind": "combine", "members": [MEMBER]}},
            "reward.members.0.weight: is 'x', not a number",
        ),
        ({"select": {"min_score": float("nan")}}, "select.min_score: is nan, not finite"),
    ],
)
def test_a_run(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        make_config({**RUN, **given})
    assert said in str(caught.value) and "Input should" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data": []}, "data: is empty, not 1 entries or more"),
        ({"data": [3]}, "data.0: is 3, not text, or a section of key: value"),
        ({"recipe": "hh", "sft": True}, "sft: is True, not a section of key: value, or False"),
        ({"recipe": "hh", "sft": {"chunk": 1}}, "sft.chunk: is 1, not 2 or more"),
        ({"recipe": "hh", "sft": {"chunck": 1}}, "sft.chunck: unknown key; did you mean sft.chunk"),
    ],
)
def test_a_training(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        make_train_config({**TRAINING, **given})
    assert str(caught.value).startswith(f"config: {said}")
    assert str(caught.value).count(":") <= 4  # nothing is said of the other part of a union


@pytest.mark.parametrize("section", [RunConfig, TrainRewardConfig])
def test_every_key_says_what_it_is(section: type[object]) -> None:
    """With its description a line has one part more than without."""
    lines = describe_keys(section)
    assert lines
    for line in lines:
        _, default, *told = line.split("  ")
        told = [one for one in told if not re.fullmatch(r"[\w-]+(\|[\w-]+)+|\[.*\]", one)]
        assert default.startswith("(") and told, line
