"""OpenRLHF's and vLLM's servers: what is sent, exact token ids, and proof of raw logits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tiny_rewards as tiny
from remote_servers import Reply, stub
from tiny_rewards import chat
from wording import says

from rewards import RewardError
from rewards.remote import RemoteReward
from rewards.remote.client import ProtocolName
from rewards.remote.texts import Texts
from rewards.types import Bos
from rollout.types import Completion, Group, InputError, Prompt

FAST: dict[str, Any] = {"backoff": 0.01, "timeout": 5.0, "retries": 0}
TALKS = [chat("q", "a" * size) for size in range(1, 6)]


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def classify(logit, *, obeys=True, shuffled=False):
    """vLLM's `/classify`, response shape as its ClassificationResponse dumps it."""

    def answer(call):
        raw = obeys and call.body["use_activation"] is False
        values = [logit(one) for one in call.body["input"]]
        values = values if raw else [sigmoid(value) for value in values]
        data = [
            {"index": index, "label": "LABEL_0", "probs": [value], "num_classes": 1}
            for index, value in enumerate(values)
        ]
        usage = {"prompt_tokens": 9, "total_tokens": 9, "completion_tokens": 0}
        return Reply(
            {"id": "classify-1", "object": "list", "created": 1, "model": "rm",
             "data": data[::-1] if shuffled else data, "usage": usage}
        )  # fmt: skip

    return answer


def test_openrlhf_gets_queries_prompts_and_labels():
    def lengths(call):
        rewards = [float(len(text)) for text in call.body["query"]]
        return Reply({"rewards": rewards, "scores": None, "extra_logs": {"dummy": rewards}})

    completions = tuple(Completion(text, (), "stop") for text in ("yes", "no"))
    groups = [Group(Prompt("a", "why?", {"answer": "yes"}), completions, policy_version=0)]
    with stub(lengths) as server:
        remote = RemoteReward(
            server.url, protocol="openrlhf", format="hh", label_column="answer", **FAST
        )
        assert remote.score_groups(groups) == [[31.0, 30.0]]
        assert server.calls[0].path == "/get_reward"
        assert server.calls[0].body == {
            "query": [f"###Human: why?###Assistant: {text}" for text in ("yes", "no")],
            "prompts": ["###Human: why?###Assistant: "] * 2,
            "labels": ["yes", "yes"],
        }


def test_openrlhf_gets_the_chat_template_and_every_prompt_begins_its_query():
    with stub(lambda call: Reply({"rewards": [1.0] * len(call.body["query"])})) as server:
        url = f"{server.url}/my/reward"
        remote = RemoteReward(url, protocol="openrlhf", tokenizer=tiny.tokenizer(), **FAST)
        remote.score([*TALKS[:1], chat("q", " spaced ")])
        body = server.calls[0].body
        assert server.calls[0].path == "/my/reward"
    assert body["query"] == [
        "<s>[user]q</s>[assistant]a</s>",
        "<s>[user]q</s>[assistant]spaced</s>",
    ]
    assert body["prompts"] == ["<s>[user]q</s>[assistant]"] * 2
    assert remote.describe()["bos"] is None  # as the template writes it
    fronts: dict[Bos, str] = {"none": "", "single": "<s>", "double": "<s><s>"}
    for bos, front in fronts.items():
        (pair,) = Texts(tiny.tokenizer(), bos=bos).queries(TALKS[:1], ["x"])
        assert pair[0] == f"{front}[user]q</s>[assistant]a</s>"


@pytest.mark.parametrize("rewards", [[1.0], 1.0, [[1.0], [2.0]], ["1", "2"]])
def test_openrlhf_half_answers_are_errors(rewards):
    with stub(lambda call: Reply({"rewards": rewards})) as server:
        remote = RemoteReward(server.url, protocol="openrlhf", format="plain", **FAST)
        with pytest.raises(RewardError, match='"rewards'):
            remote.score(TALKS[:2])


@pytest.mark.parametrize(("bos", "front"), [(None, 1), ("none", 0), ("single", 1), ("double", 2)])
def test_vllm_gets_exact_token_ids_and_is_asked_for_logits(bos, front):
    tokenizer = tiny.tokenizer()
    with stub(classify(lambda ids: 2.0 + len(ids), shuffled=True)) as server:
        remote = RemoteReward(
            server.url, protocol="vllm-classify", tokenizer=tokenizer, bos=bos, model="rm",
            batch_size=2, concurrency=1, **FAST,
        )  # fmt: skip
        scores = remote.score(TALKS)
        body = server.calls[0].body
    rest = tokenizer("[user]q</s>[assistant]a</s>", add_special_tokens=False)["input_ids"]
    assert body["input"][0] == [tiny.BOS_ID] * front + rest
    assert body["use_activation"] is False and body["model"] == "rm"
    assert scores.tolist() == [2.0 + front + len(rest) + extra for extra in range(5)]
    assert len(server.calls) == 3  # logits outside [0, 1] need no proof
    assert remote.describe()["bos"] == (bos or "single")


def test_vllm_without_a_tokenizer_gets_text():
    with stub(classify(lambda text: float(len(text)))) as server:
        remote = RemoteReward(server.url, protocol="vllm-classify", format="plain", **FAST)
        assert remote.score([*TALKS[:2], "a whole text"]).tolist() == [2, 3, 12]
        assert server.calls[0].body["input"] == ["qa", "qaa", "a whole text"]


def test_long_conversations_are_cut_to_the_length():
    with stub(classify(len)) as server:
        remote = RemoteReward(
            server.url, protocol="vllm-classify", tokenizer=tiny.tokenizer(), max_length=9, **FAST
        )
        assert remote.score([chat("q", "a" * 50)]).tolist() == [9]


def test_cuts_are_on_the_side_that_was_asked_for():
    talk = [chat("q", "a" * 40 + "b" * 10)]
    kept = {}
    for side in (None, "left", "right"):
        with stub(classify(len)) as server:
            remote = RemoteReward(
                server.url, protocol="vllm-classify", tokenizer=tiny.tokenizer(), max_length=50,
                truncation_side=side, **FAST,
            )  # fmt: skip
            remote.score(talk)
            kept[side] = server.calls[0].body["input"][0]
    assert kept[None] == kept["left"] != kept["right"]
    whole = tiny.tokenizer().encode("b", add_special_tokens=False)
    assert set(whole) <= set(kept["left"]) and not set(whole) & set(kept["right"])


def test_vllm_pooling_asks_for_the_classifier():
    def pooling(call):
        data = [
            {"index": index, "object": "pooling", "data": [float(len(text))]}
            for index, text in enumerate(call.body["input"])
        ]
        return Reply({"id": "pool-1", "object": "list", "model": "rm", "data": data})

    with stub(pooling) as server:
        remote = RemoteReward(server.url, protocol="vllm-pooling", format="plain", **FAST)
        assert remote.score(TALKS).tolist() == [2, 3, 4, 5, 6]
        assert server.calls[0].path == "/pooling"
        assert server.calls[0].body["task"] == "classify"
        assert server.calls[0].body["use_activation"] is False


def test_logits_within_0_and_1_are_proven_once():
    with stub(classify(lambda text: len(text) / 10)) as server:
        remote = RemoteReward(server.url, protocol="vllm-classify", format="plain", **FAST)
        for _ in range(2):
            np.testing.assert_allclose(remote.score(TALKS), np.arange(2, 7) / 10, rtol=1e-6)
        assert [call.body["use_activation"] for call in server.calls] == [False, True, False]
        assert server.calls[1].body["input"] == ["qa"]  # 0.2, farthest from its own sigmoid


def test_probabilities_are_refused_unless_the_user_vouches_for_them():
    with stub(classify(lambda text: -len(text), obeys=False)) as server:
        remote = RemoteReward(server.url, protocol="vllm-classify", format="plain", **FAST)
        with pytest.raises(RewardError, match=r"with and without use_activation.*assume_raw"):
            remote.score(TALKS)
        trusting = RemoteReward(
            server.url, protocol="vllm-classify", format="plain", assume_raw=True, **FAST
        )
        assert trusting.score(TALKS).max() < 1


def test_a_score_that_is_its_own_sigmoid_proves_nothing_and_fails_nothing():
    with stub(classify(lambda text: 0.659)) as server:
        remote = RemoteReward(server.url, protocol="vllm-classify", format="plain", **FAST)
        assert remote.score(TALKS[:1]).tolist() == [pytest.approx(0.659)]
        assert len(server.calls) == 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([{"index": 0, "probs": [1.5]}], '"data" has 1 entries where 2'),
        ([{"index": 0, "probs": [1.5]}, {"index": 0, "probs": [2.5]}], "not numbered 0, 1"),
        (
            [{"index": 0, "probs": [1.5]}, {"index": True, "probs": [2.5]}],
            "is True, not a whole number",
        ),
        (
            [{"index": 0, "probs": [1.5]}, {"index": [1], "probs": [2.5]}],
            "is a list, not a whole number",
        ),
        ([{"index": 0, "probs": [1, 2]}, {"index": 1, "probs": [1, 2]}], "has 2 outputs"),
        ([{"index": 0, "probs": [[1.0]]}, {"index": 1, "probs": [[1.0]]}], "one output per token"),
        ([{"index": 0}, {"index": 1}], "data.0.probs"),
        ([{"index": 0, "probs": ["1"]}, {"index": 1, "probs": [2.0]}], "is '1', not a number"),
        ("nonsense", "is 'nonsense', not a list"),
    ],
)
def test_vllm_half_answers_are_errors(data, said):
    with stub(lambda call: Reply({"data": data, "model": "rm"})) as server:
        remote = RemoteReward(server.url, protocol="vllm-classify", format="plain", **FAST)
        with pytest.raises(RewardError) as caught:
            remote.score(TALKS[:2])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "give tokenizer="),
        ({"format": "chat"}, "needs tokenizer="),
        ({"format": "poem"}, "format='poem'"),
        ({"format": "hh", "bos": "single"}, "needs tokenizer="),
        ({"format": "hh", "max_length": 9}, "needs tokenizer="),
        ({"format": "hh", "truncation_side": "right"}, "needs tokenizer="),
        ({"tokenizer": "no/such/folder"}, "cannot be loaded"),
        ({"format": "hh", "columns": ["x"]}, "has no use for columns"),
        ({"protocol": "openrlhf", "format": "hh", "model": "x"}, "has no use for model"),
        (
            {"protocol": "openrlhf", "format": "hh", "truncation_side": "right"},
            "no use for truncation_side",
        ),
    ],
)
def test_settings_of_text_protocols_are_checked_when_built(settings, said):
    one: dict[str, Any] = {"protocol": "vllm-classify", **settings}
    with pytest.raises(InputError) as caught:
        RemoteReward("http://127.0.0.1:1", **one)
    assert says(caught.value, said) and "\n" not in str(caught.value)


@pytest.mark.vllm
def test_requests_and_answers_are_those_of_vllms_own_classes():
    from vllm.entrypoints.pooling.classify.protocol import (
        ClassificationCompletionRequest,
        ClassificationData,
        ClassificationResponse,
    )
    from vllm.entrypoints.pooling.pooling.protocol import (
        PoolingCompletionRequest,
        PoolingResponse,
        PoolingResponseData,
    )
    from vllm.entrypoints.serve.engine.protocol import UsageInfo

    def answer(call):
        classifies = call.path == "/classify"
        kind = ClassificationCompletionRequest if classifies else PoolingCompletionRequest
        request = kind.model_validate(call.body)
        assert request.to_pooling_params().use_activation is False
        assert request.to_pooling_params().task == "classify"
        assert not request.model_extra  # no field that vLLM would ignore
        sizes = enumerate(float(len(one)) for one in call.body["input"])
        if classifies:
            data = [
                ClassificationData(index=i, label=None, probs=[x], num_classes=1) for i, x in sizes
            ]
            response = ClassificationResponse(model="rm", data=data, usage=UsageInfo())
        else:
            rows = [PoolingResponseData(index=i, data=[x]) for i, x in sizes]
            response = PoolingResponse(model="rm", data=rows, usage=UsageInfo())
        return Reply(response.model_dump())

    with stub(answer) as server:
        protocols: tuple[ProtocolName, ...] = ("vllm-classify", "vllm-pooling")
        for protocol in protocols:
            remote = RemoteReward(
                server.url, protocol=protocol, tokenizer=tiny.tokenizer(), model="rm", **FAST
            )
            assert np.diff(remote.score(TALKS)).tolist() == [1, 1, 1, 1]
