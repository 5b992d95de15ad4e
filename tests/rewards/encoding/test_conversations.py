"""`score` of whatever reward says what is wrong with what are no conversations."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_rewards
from wording import words

from rewards import build_reward, load_reward
from rollout.errors import InputError

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello to you"}]
LENGTH = {"kind": "function", "function": "length"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_reward(
        tiny_rewards.checkpoint(tmp_path_factory.mktemp("rm"), "qwen2"), format="plain"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([{"prompt": "a", "response": "b"}], "conversation 0 'prompt', 'response' raft.score"),
        ([TURNS, {"chosen": "a", "rejected": "b"}], "conversation 1 'chosen', 'rejected'"),
        (TURNS, "conversation 0 one message list of conversations"),
        ("a text", "one text"),
    ],
)
def test_what_is_no_conversation_is_named(model: Any, given: Any, told: str) -> None:
    both: Any = build_reward("combine", members=[LENGTH, {**LENGTH, "name": "again"}])
    for reward in (model, load_reward("function:length"), both):
        with pytest.raises(InputError, match=words(told)):
            reward.score(given)


def test_a_function_scores_conversations_as_a_model_does() -> None:
    reward = load_reward("function:length")
    assert reward.score([TURNS, [*TURNS, *TURNS]]).tolist() == [3, 3]
    with pytest.raises(InputError, match=words("settings of a model")):
        load_reward("function:length", dtype="float32")
    with pytest.raises(InputError, match=words("plain text")):
        reward.score(["Hello"])
