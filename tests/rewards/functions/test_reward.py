"""Functions as rewards: TRL's calling convention, and loud failures."""

from __future__ import annotations

import math
import pickle
import sys
from typing import Any

import numpy as np
import pytest

from rewards import Reward, RewardError, build_reward
from rewards.functions.reward import FunctionReward
from rollout.types import Completion, Group, InputError, Message, Prompt


def group(id, content, responses, **fields):
    completions = tuple(Completion(text, tuple(range(len(text))), "stop") for text in responses)
    return Group(Prompt(id, content, fields), completions, policy_version=0)


GROUPS = [group("a", "1+1?", ["2", "3"], answer="2", level=1), group("b", "why?", ["x"])]


def recorded(**kwargs):
    recorded.calls.append(kwargs)
    return [0.0] * len(kwargs["prompts"])


def test_functions_are_called_once_as_trl_calls_them():
    recorded.calls = []
    messages = (Message(role="system", content="s"), Message(role="user", content="hi"))
    FunctionReward(recorded).score_groups([*GROUPS, group("c", messages, ["yo"], answer="4")])
    (call,) = recorded.calls
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    assert call == {
        "prompts": ["1+1?", "1+1?", "why?", chat],
        "completions": ["2", "3", "x", [{"role": "assistant", "content": "yo"}]],
        "completion_ids": [[0], [0], [0], [0, 1]],
        "answer": ["2", "2", None, "4"],
        "level": [1, 1, None, None],
    }
    call["prompts"][3][0]["content"] = "changed"  # a copy: the run's prompt stays
    assert messages[0]["content"] == "s"


def test_a_trl_reward_function_runs_unchanged():
    from trl.rewards.format_rewards import think_format_reward

    good = "<think>so</think> yes"
    messages = (Message(role="user", content="hi"),)
    reward = FunctionReward(think_format_reward)
    assert reward.score_groups([group("a", messages, [good, "yes"])]) == [[1.0, 0.0]]


def test_scores_keep_their_groups_and_none_stays_missing():
    def half(prompts, completions, **columns):
        return [None if text == "3" else len(text) for text in completions]

    assert FunctionReward(half).score_groups([*GROUPS, group("c", "", [])]) == [
        [1.0, None],
        [1.0],
        [],
    ]
    assert FunctionReward(half).score_groups([]) == []


def test_functions_without_kwargs_get_what_they_name():
    def narrow(completions, answer):
        return [float(text == right) for text, right in zip(completions, answer, strict=True)]

    assert FunctionReward(narrow).score_groups(GROUPS) == [[1.0, 0.0], [0.0]]


def test_arguments_win_over_columns_of_the_same_name():
    def leveled(completions, level, **columns):
        return [level for _ in completions]

    assert FunctionReward(leveled, arguments={"level": 9}).score_groups(GROUPS) == [[9, 9], [9]]


def test_async_functions_and_arrays():
    async def later(completions, **columns):
        return np.array([True, False, True])

    assert FunctionReward(later).score_groups(GROUPS) == [[1.0, 0.0], [1.0]]
    scores = FunctionReward(lambda **k: [np.float32(1.5), np.int64(2), np.bool_(True)])
    assert scores.score_groups(GROUPS) == [[1.5, 2.0], [1.0]]


def raising(**columns):
    raise KeyError("no such thing")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (raising, r"'raising' raised KeyError.*prompts 'a', 'b'"),
        (lambda **k: [1.0], "returned 1 scores for 3"),
        (lambda **k: [1.0] * 4, "returned 4 scores for 3"),
        (lambda **k: 1.0, "returned a float"),
        (lambda **k: None, "returned a NoneType"),
        (lambda **k: "abc", "returned a str"),
        (lambda **k: {0: 1, 1: 1, 2: 1}, "returned a dict"),
        (lambda **k: [1.0, 2.0, "3"], "returned '3' for prompt 'b'"),
        (lambda **k: [1.0, 1j, 1.0], "prompt 'a'"),
        (lambda **k: [1.0, [1.0], 1.0], "prompt 'a'"),
        (lambda **k: [1.0, 1.0, math.nan], "gave nan for prompt 'b'"),
        (lambda **k: [-math.inf, 1.0, 1.0], "gave -inf for prompt 'a'"),
        (lambda **k: np.array([1.0, np.nan, 1.0]), "gave nan for prompt 'a'"),
        (lambda **k: [1.0, 10**400, 1.0], "too large for prompt 'a'"),
    ],
)
def test_failures_are_loud_and_name_the_prompt(function, message):
    with pytest.raises(RewardError, match=message) as caught:
        FunctionReward(function).score_groups(GROUPS)
    assert "\n" not in str(caught.value)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), RewardError)


def test_the_cause_is_chained():
    with pytest.raises(RewardError) as caught:
        FunctionReward(raising).score_groups(GROUPS)
    assert isinstance(caught.value.__cause__, KeyError)


def test_non_finite_can_be_missing_but_never_a_number():
    reward = FunctionReward(lambda **k: [math.nan, math.inf, 1.0], non_finite="missing")
    assert reward.score_groups(GROUPS) == [[None, None], [1.0]]
    with pytest.raises(InputError, match="raise, missing"):
        FunctionReward("length", non_finite="zero")  # type: ignore[arg-type]


def test_reserved_columns_are_refused():
    with pytest.raises(InputError, match="'completions'"):
        FunctionReward(recorded).score_groups([group("a", "p", ["x"], completions=1)])


def test_functions_from_files_and_modules(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "def good(completions, **k):\n    return [7] * len(completions)\n"
    )
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.py").write_text(
        "def good(completions, **k):\n    return [8] * len(completions)\n"
    )
    assert FunctionReward(f"{tmp_path}/mine.py:good").score_groups(GROUPS) == [[7, 7], [7]]
    assert FunctionReward(f"{other}/mine.py:good").score_groups(GROUPS) == [[8, 8], [8]]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert FunctionReward("mine:good").score_groups(GROUPS) == [[7, 7], [7]]
    monkeypatch.delitem(sys.modules, "mine")


def test_what_is_not_found_is_named_with_what_there_is(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("value = 3\n")
    broken = tmp_path / "broken.py"
    broken.write_text("import nowhere_to_be_found\n")
    cases = {
        "lenght": "'lenght'",
        f"{tmp_path}/none.py:f": "none.py.*no such file",
        f"{path}:absent": "mine.py.*'absent'",
        f"{path}:value": "not a function",
        f"{broken}:f": "nowhere_to_be_found",
        "no_such_package.module:f": "no_such_package",
        "json:absent": "json.*'absent'|'absent'.*json",
        "json:": "'json:'",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            FunctionReward(name)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="exact_match, length, numeric_match, regex, word_list"):
        FunctionReward("lenght")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("length", {"unti": "words"}, "no setting 'unti': it has scale, target, unit"),
        ("length", {"unit": "miles"}, "miles"),
        ("regex", {}, "pattern"),
        ("regex", {"pattern": "("}, "compile"),
        ("word_list", {"lexicon": "/none.json"}, "no lexicon"),
        ("numeric_match", {"tolerance": "wide"}, "tolerance|wrong type"),
    ],
)
def test_wrong_settings_of_a_builtin_fail_when_it_is_built(name, arguments, message):
    with pytest.raises(InputError, match=message):
        FunctionReward(name, arguments=arguments)


def test_build_reward(tmp_path):
    reward = build_reward("function", function="numeric_match", arguments={"column": "answer"})
    assert isinstance(reward, Reward)
    assert reward.score_groups(GROUPS) == [[1.0, 0.0], [None]]
    cases: list[tuple[Any, str]] = [
        ({"kind": "oracle"}, "function, model"),
        ({"kind": "function"}, "needs function"),
        ({"kind": "model"}, "needs model"),
        ({"kind": "function", "function": "length", "model": "x"}, "no use for model"),
        ({"kind": "model", "model": "x", "function": "length"}, "no use for function"),
        ({"kind": "model", "model": str(tmp_path / "none")}, "none: no such folder"),
    ]
    for settings, message in cases:
        with pytest.raises(InputError, match=message):
            build_reward(**settings)


def test_build_reward_loads_models(folders):
    reward = build_reward("model", model=folders["gpt2"], bos="none", format="plain")
    assert isinstance(reward, Reward)
    ((score,),) = reward.score_groups([group("a", "once", [" upon"])])
    assert isinstance(score, float)
