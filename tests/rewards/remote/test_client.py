"""The client against a stub: order, bounds, retries, and one clear line for every bad answer."""

from __future__ import annotations

import asyncio
import json
import math
import pickle
import time
from random import Random
from typing import Any

import numpy as np
import pytest
from remote_servers import Reply, stub
from tiny_rewards import chat

from rewards import Reward, RewardError
from rewards.remote import RemoteJudge, RemoteReward
from rewards.types import Comparison
from rollout.types import Completion, Group, InputError, Prompt

FAST: dict[str, Any] = {"backoff": 0.01, "timeout": 5.0}
TALKS = [chat("q", "a" * size) for size in range(1, 8)]


def lengths(call):
    """A well-behaved server: the score is the length of the response."""
    if "groups" in call.body:
        rows = [[float(len(text)) for text in row["responses"]] for row in call.body["groups"]]
        return Reply({"scores": rows, "version": 1})
    scores = [float(len(one[-1]["content"])) for one in call.body["conversations"]]
    return Reply({"scores": scores, "model": "toy", "version": 1})


def group(id, texts, **fields):
    completions = tuple(Completion(text, (7, 8), "stop") for text in texts)
    return Group(Prompt(id, "why?", fields), completions, policy_version=3)


def failure(answer, *, talks=TALKS[:2], error=RewardError, **settings):
    """The message with which scoring fails against `answer`, and the stub."""
    with stub(answer) as server:
        remote = RemoteReward(server.url, **{**FAST, "retries": 0, **settings})
        with pytest.raises(error) as caught:
            remote.score(talks)
        message = str(caught.value)
        assert "\n" not in message and len(message) < 900
        assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
        return message, server


def test_scores_are_float32_in_order_whatever_the_batches():
    with stub(lengths) as server:
        for size in (1, 2, 3, 100):
            scores = RemoteReward(server.url, batch_size=size, **FAST).score(TALKS)
            assert scores.dtype == np.float32 and scores.tolist() == [1, 2, 3, 4, 5, 6, 7]
        assert server.calls[-1].path == "/score"
        assert server.calls[-1].body["conversations"] == TALKS
        before = len(server.calls)
        assert RemoteReward(server.url, **FAST).score([]).shape == (0,)
        assert RemoteReward(server.url, **FAST).score_groups([]) == []
        assert len(server.calls) == before


def test_order_survives_random_delays_and_concurrency_stays_within_its_bound():
    random = Random(0)
    talks = [chat("q", "a" * random.randrange(1, 999)) for _ in range(40)]

    def slow(call):
        reply = lengths(call)
        reply.delay = random.uniform(0.0, 0.03)
        return reply

    with stub(slow) as server:
        scores = RemoteReward(server.url, batch_size=2, concurrency=3, **FAST).score(talks)
        assert scores.tolist() == [len(talk[-1]["content"]) for talk in talks]
        assert server.most == 3 and len(server.calls) == 20


def test_groups_travel_whole_with_what_a_function_reads():
    groups = [
        group("a", ["x", "yy", "zzz"], answer="4", level=1),
        group("b", []),
        group("c", ["w"]),
    ]
    with stub(lengths) as server:
        remote = RemoteReward(server.url, batch_size=2, columns=["answer"], **FAST)
        assert isinstance(remote, Reward)
        assert remote.score_groups(groups) == [[1.0, 2.0, 3.0], [], [1.0]]
        row = next(c.body["groups"][0] for c in server.calls if c.body["groups"][0]["id"] == "a")
        assert row == {
            "id": "a",
            "prompt": "why?",
            "responses": ["x", "yy", "zzz"],
            "fields": {"answer": "4"},
            "token_ids": [[7, 8]] * 3,
            "finish_reasons": ["stop"] * 3,
        }
        every = {one["id"] for call in server.calls for one in call.body["groups"]}
        assert every == {"a", "b", "c"} and len(server.calls) == 2


def test_thousands_of_conversations_in_small_batches():
    with stub(lengths) as server:
        scores = RemoteReward(server.url, batch_size=100, **FAST).score(TALKS * 1000)
    assert scores.tolist() == [1, 2, 3, 4, 5, 6, 7] * 1000


def test_it_works_where_an_event_loop_runs_already():
    async def inside(url):
        return RemoteReward(url, **FAST).score(TALKS)

    with stub(lengths) as server:
        assert asyncio.run(inside(server.url)).tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_a_proxy_of_the_environment_is_not_for_loopback(monkeypatch):
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with stub(lengths) as server:
        assert RemoteReward(server.url, **FAST).score(TALKS[:1]).tolist() == [1]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_fault_is_retried(status, caplog):
    def recovering(call):
        return lengths(call) if call.number > 2 else Reply({"error": "warming up"}, status)

    with stub(recovering) as server, caplog.at_level("WARNING", "rewards"):
        assert RemoteReward(server.url, retries=2, **FAST).score(TALKS[:1]).tolist() == [1]
        assert len(server.calls) == 3
    assert "warming up" in caplog.text and "try 3 of 3" in caplog.text


def test_a_server_that_is_not_there_is_named():
    with stub(lengths) as server:
        url = server.url
    with pytest.raises(RewardError, match=rf"{url}/score: cannot connect .*after 3 tries"):
        RemoteReward(url, retries=2, **FAST).score(TALKS)


def test_a_server_that_always_fails_ends_in_one_error_naming_the_prompts():
    groups = [group(f"p{index}", ["x"]) for index in range(7)]
    with stub(lambda call: Reply({"error": "CUDA out\nof memory"}, 500)) as server:
        with pytest.raises(RewardError) as caught:
            RemoteReward(server.url, retries=2, **FAST).score_groups(groups)
        assert len(server.calls) == 3
    assert str(caught.value) == (
        f"reward server {server.url}/score: it answered 500 Internal Server Error: CUDA out of "
        "memory, after 3 tries (for prompt 'p0', prompt 'p1', prompt 'p2', prompt 'p3', "
        "prompt 'p4' and 2 more)"
    )


def test_a_hanging_server_ends_with_the_time_limit():
    started = time.monotonic()
    message, server = failure(
        lambda call: Reply({"scores": []}, delay=30.0), timeout=0.1, retries=1
    )
    assert "no answer within 0.1 s, after 2 tries" in message and len(server.calls) == 2
    assert time.monotonic() - started < 3


def test_one_failed_batch_cancels_the_others_promptly():
    def mixed(call):
        return Reply({"error": "no"}, 400) if call.number == 3 else Reply(None, delay=30.0)

    started = time.monotonic()
    message, server = failure(mixed, talks=TALKS, batch_size=1, concurrency=3, timeout=30.0)
    assert "400 Bad Request: no" in message
    assert time.monotonic() - started < 3 and len(server.calls) == 3


def test_retry_after_is_honoured_up_to_a_minute():
    def asking(call):
        wait = {"Retry-After": "0" if call.number < 3 else "3600"}
        return Reply({"error": "busy"}, 429, wait)

    message, server = failure(asking, retries=9)
    assert "429 Too Many Requests: busy, after 3 tries" in message and len(server.calls) == 3


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (
            400,
            {"error": {"message": "too long", "type": "x", "code": 400}},
            "Bad Request: too long",
        ),
        (422, {"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required"),
        (404, b"<html>nope</html>", "<html>nope</html>: check the url"),
        (413, {"error": "big"}, "use a smaller batch_size"),
        (401, {"error": "who?"}, "set the token (token_env"),
        (418, b"", "418 I'm a Teapot"),
        (799, b"\xff", "it answered 799"),
    ],
)
def test_what_the_client_did_wrong_is_not_retried(status, body, said):
    message, server = failure(lambda call: Reply(body, status), retries=5)
    assert said in message and "conversation 0, conversation 1" in message
    assert len(server.calls) == 1


def test_redirects_are_not_followed():
    with stub(lengths) as other:
        to = {"Location": f"{other.url}/score"}
        message, _ = failure(lambda call: Reply(b"", 307, to), token="secret")
        assert f"redirects to {other.url}/score" in message and not other.calls


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"scores": [1.0]}, '"scores" has 1 entries where 2 were asked for'),
        ({"scores": [1.0, 2.0, 3.0]}, '"scores" has 3 entries where 2'),
        ({"scores": 1.0}, '"scores": is 1.0, not a list'),
        (
            {"rewards": [1.0, 2.0]},
            '"scores": is missing (there is rewards): check the protocol',
        ),
        ([1.0, 2.0], "it answered no JSON object"),
        ({"scores": [1.0, "2.0"]}, "\"scores.1\": is '2.0', not a number"),
        ({"scores": [1.0, True]}, "is True, not a number"),
        ({"scores": [1.0, [2.0]]}, "is a list, not a number"),
        ({"scores": [1.0, 10**400]}, "is 1000"),
        (b'{"scores": [1.0, 2', "is not JSON"),
        (b"", "answer of 0 bytes is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b'{"ids": "IDS", "scores": [1.0, NaN]}', "gave nan for conversation 1"),
        (b'{"ids": "IDS", "scores": [-Infinity, 1.0]}', "gave -inf for conversation 0"),
        ({"scores": [1.0, 1e39]}, "gave inf for conversation 1"),
        ({"scores": [1.0, 2.0], "ids": None}, 'has no "ids"'),
        ({"scores": [1.0, 2.0], "ids": ["1", "0"]}, "or in another order"),
        ({"scores": [1.0, 2.0], "version": 2}, "it speaks version 2 of our JSON"),
        (b" " * (2 << 20), "larger than"),
    ],
)
def test_half_answers_are_errors_and_never_scores(body, said):
    message, server = failure(lambda call: Reply(body), retries=3)
    assert said in message and server.url in message
    assert len(server.calls) == 1


def test_a_body_that_breaks_off_is_no_answer():
    message, server = failure(lambda call: Reply({"scores": [1.0, 2.0]}, cut=True), retries=1)
    assert "the connection broke" in message and "after 2 tries" in message
    assert len(server.calls) == 2


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([[1.0, 2.0]], '"scores" has 1 entries where 2'),
        ([[1.0], [2.0]], "has 1 entries where 2 were asked for"),
        ([1.0, 2.0], '"scores.0": is 1.0, not a list'),
        ([[1.0, math.nan], [3.0]], "gave nan for prompt 'a'"),
    ],
)
def test_half_answered_groups_are_errors(scores, said):
    groups = [group("a", "xy"), group("b", "z")]
    with stub(lambda call: Reply({"scores": scores})) as server:
        remote = RemoteReward(server.url, **FAST)
        with pytest.raises(RewardError) as caught:
            remote.score_groups(groups)
    assert said in str(caught.value)


def test_missing_scores_stay_missing():
    with stub(lambda call: Reply({"scores": [None, 2.0]})) as server:
        scores = RemoteReward(server.url, **FAST).score(TALKS[:2])
        assert np.isnan(scores[0]) and scores[1] == 2
    with stub(lambda call: Reply({"scores": [[None, math.nan, 2.0]]})) as server:
        remote = RemoteReward(server.url, non_finite="missing", **FAST)
        assert remote.score_groups([group("a", "xyz")]) == [[None, None, 2.0]]


def test_another_model_than_the_one_asked_for_is_refused():
    message, server = failure(lengths, model="gold")
    assert "model 'toy' answered, not 'gold'" in message
    assert server.calls[0].body["model"] == "gold"


def test_the_token_is_sent_and_never_shown(monkeypatch, caplog):
    monkeypatch.setenv("REWARD_TOKEN", "s3cret")

    def echoing(call):
        return Reply({"error": call.headers["Authorization"]}, 503 if call.number == 1 else 401)

    with caplog.at_level("DEBUG"):
        message, server = failure(echoing, token_env="REWARD_TOKEN", retries=1)
    assert [call.headers["Authorization"] for call in server.calls] == ["Bearer s3cret"] * 2
    assert "Bearer ***: it does not accept the token" in message
    remote = RemoteReward(server.url, token="s3cret")
    shown = [message, caplog.text, json.dumps(remote.describe()), repr(vars(remote))]
    assert not any("s3cret" in one for one in [*shown, repr(vars(remote._transport))])


def test_it_is_sent_to_workers_as_it_is(monkeypatch):
    with stub(lengths) as server:
        copy = pickle.loads(pickle.dumps(RemoteReward(server.url, token="x", **FAST)))
        assert copy.score(TALKS[:1]).tolist() == [1]
        assert server.calls[0].headers["Authorization"] == "Bearer x"


def test_what_cannot_be_sent_is_the_users_to_mend():
    with stub(lengths) as server:
        remote = RemoteReward(server.url, **FAST)
        with pytest.raises(InputError, match=r"prompt 'a': cannot be sent as JSON .*columns"):
            remote.score_groups([group("a", ["x"], when=object())])
        with pytest.raises(InputError, match="cannot be sent as JSON"):
            remote.score([chat("q", "\ud800")])
        assert not server.calls


def test_a_judge_compares_in_order_and_only_in_probabilities():
    pairs = [Comparison(chat("q"), "a" * size, "b") for size in range(5)]

    def judge(call):
        sizes = [len(pair["first"]) for pair in call.body["comparisons"]]
        return Reply({"probabilities": [size / 10 for size in sizes], "version": 1})

    with stub(judge) as server:
        found = RemoteJudge(server.url, batch_size=2, **FAST).compare(pairs)
        assert found.tolist() == [0.0, 0.1, 0.2, 0.3, 0.4] and server.calls[0].path == "/compare"
        body = {"prompt": [{"role": "user", "content": "q"}], "first": "", "second": "b"}
        bodies = [pair for call in server.calls for pair in call.body["comparisons"]]
        assert body in bodies
    for bad, said in ((1.5, "no probability"), (None, "gave nan"), (math.nan, "gave nan")):
        with stub(lambda call, bad=bad: Reply({"probabilities": [bad]})) as server:
            remote = RemoteJudge(server.url, **FAST)
            with pytest.raises(RewardError, match=said):
                remote.compare(pairs[:1])
    with stub(lambda call: Reply({"probabilities": [None]})) as server:
        judge_ = RemoteJudge(server.url, non_finite="missing", **FAST)
        assert np.isnan(judge_.compare(pairs[:1])).all()
