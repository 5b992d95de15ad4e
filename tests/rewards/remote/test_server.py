"""Our server: the same scores as the reward itself, one at a time, and nothing scored wrongly."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import httpx
import numpy as np
import pytest
from remote_servers import served
from tiny_rewards import chat
from wording import words

from rewards import RewardError
from rewards.functions.reward import FunctionReward
from rewards.remote import RemoteJudge, RemoteReward, build_app, serve
from rewards.types import Comparison
from rollout.types import Completion, Group, InputError, Prompt

FAST: dict[str, Any] = {"backoff": 0.01, "timeout": 5.0, "retries": 0}
TALKS = [chat("q", "a" * size) for size in range(1, 8)]


class Toy:
    """Scores texts and conversations by their size; keeps account of who was in at once."""

    name = "toy"

    def __init__(self, pause=0.0):
        self.pause, self.now, self.most, self.calls = pause, 0, 0, 0

    def score(self, conversations):
        self.now += 1
        self.most, self.calls = max(self.most, self.now), self.calls + 1
        time.sleep(self.pause)
        self.now -= 1
        texts = [one if isinstance(one, str) else one[-1]["content"] for one in conversations]
        return np.array([self.one(text) for text in texts], dtype=np.float32)

    def one(self, text):
        if text == "bad":
            raise RewardError("the model\ngave nothing")
        if text == "bug":
            raise ZeroDivisionError("oops")
        if text == "input":
            raise InputError("text", "it does not fit the format")
        return {"nan": np.nan, "inf": np.inf}.get(text, len(text) / 3)


class Judge:
    name = "judge"

    def compare(self, comparisons):
        return [None if one.first == "?" else len(one.first) / 10 for one in comparisons]


@pytest.fixture(scope="module")
def toy_url():
    with served(build_app(Toy())) as url:
        yield url


def group(id, content, texts, **fields):
    completions = tuple(Completion(text, tuple(range(len(text))), "length") for text in texts)
    return Group(Prompt(id, content, fields), completions, policy_version=0)


def test_a_served_function_gives_what_it_gives_here():
    seen = []

    def function(prompts, completions, completion_ids, answer, **columns):
        seen.append((prompts, completions, completion_ids, answer, columns))
        return [
            None if a is None else len(ids) / 3
            for a, ids in zip(answer, completion_ids, strict=True)
        ]

    groups = [
        group("a", "1+1?", ["2", "33"], answer="2", level=[1]),
        group("b", tuple(chat("hi", "yo", "é?")), ["four"], answer=None),
        group("c", "", ["x" * 9], answer="z"),
    ]
    reward = FunctionReward(function)
    with served(build_app(reward)) as url:
        remote = RemoteReward(url, batch_size=100, **FAST)
        assert remote.score_groups(groups) == reward.score_groups(groups)
        assert seen[0] == seen[1]  # the function cannot tell whether it was asked from afar
        one_by_one = RemoteReward(url, batch_size=1, **FAST)
        assert one_by_one.score_groups(groups) == reward.score_groups(groups)


def test_conversations_reach_rewards_that_read_groups_only():
    function = FunctionReward(lambda completions, **_: [len(c[0]["content"]) for c in completions])
    with served(build_app(function)) as url:
        assert RemoteReward(url, **FAST).score(TALKS).tolist() == [1, 2, 3, 4, 5, 6, 7]
        with pytest.raises(RewardError, match="scores messages, not whole texts"):
            RemoteReward(url, **FAST).score(["a text"])
        with pytest.raises(RewardError, match=r"conversations.0: a prompt and, last"):
            RemoteReward(url, **FAST).score([chat("only a question")])
        assert httpx.post(f"{url}/get_reward", json={"query": ["x"]}).status_code == 404


def test_float32_scores_arrive_bit_for_bit_by_either_protocol():
    toy = Toy()
    texts = ["x" * size for size in range(1, 60)]
    with served(build_app(toy)) as url:
        assert np.array_equal(
            RemoteReward(url, batch_size=7, **FAST).score(texts), toy.score(texts)
        )
        openrlhf = RemoteReward(url, protocol="openrlhf", format="plain", **FAST)
        assert np.array_equal(openrlhf.score(texts), toy.score(texts))
        assert np.isnan(RemoteReward(url, **FAST).score(["nan"])).all()


def test_a_served_judge():
    pairs = [Comparison(chat("q"), "a" * size, "b") for size in range(5)]
    with served(build_app(Judge())) as url:
        judge = RemoteJudge(url, model="judge", batch_size=2, **FAST)
        assert judge.compare(pairs).tolist() == [0.0, 0.1, 0.2, 0.3, 0.4]
        with pytest.raises(RewardError, match="gave nan for comparison 0"):
            judge.compare([Comparison(chat("q"), "?", "b")])
        assert httpx.post(f"{url}/score", json={}).status_code == 404


def test_scoring_calls_never_overlap():
    toy = Toy(pause=0.01)
    with served(build_app(toy)) as url:
        RemoteReward(url, batch_size=1, concurrency=6, **FAST).score(["x"] * 12)
    assert (toy.calls, toy.most) == (12, 1)


def test_requests_whose_client_left_are_not_scored():
    toy = Toy(pause=0.3)
    with served(build_app(toy)) as url:
        first = threading.Thread(target=RemoteReward(url, **FAST).score, args=(["x"],))
        first.start()
        time.sleep(0.1)
        with pytest.raises(RewardError, match="no answer within"):
            RemoteReward(url, timeout=0.05, retries=0).score(["y"])
        first.join()
        RemoteReward(url, **FAST).score(["z"])
    assert toy.calls == 2


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("bad", 500, "the model gave nothing"),
        ("bug", 500, "ZeroDivisionError: oops"),
        ("inf", 500, "infinite"),
        ("input", 400, "it does not fit the format"),
    ],
)
def test_a_failed_reward_is_an_error_and_never_a_number(toy_url, text, status, said):
    for body in ({"conversations": ["fine", text]}, {"query": ["fine", text]}):
        route = "/score" if "conversations" in body else "/get_reward"
        answer = httpx.post(toy_url + route, json=body)
        assert answer.status_code == status and list(answer.json()) == ["error"]
        assert said in answer.json()["error"]
    # OpenRLHF has no missing scores
    assert httpx.post(f"{toy_url}/get_reward", json={"query": ["nan"]}).status_code == 500
    assert RemoteReward(toy_url, **FAST).score(["fine"]).tolist() == [np.float32(4 / 3)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "Invalid JSON"),
        (b"[]", "object"),
        ({}, 'give either "conversations" or "groups"'),
        ({"conversations": ["x"], "groups": []}, "give either"),
        ({"conversations": "x"}, "conversations: "),
        ({"conversations": [5]}, "conversations.0"),
        ({"conversations": [[{"role": "user"}]]}, "conversations.0: messages"),
        (
            {"conversations": [[{"role": "user", "content": "x", "nmae": "y"}]]},
            "unknown key 'nmae'",
        ),
        ({"conversations": ["x"], "modle": "y"}, "modle: unknown key"),
        ({"conversations": ["x"], "model": "gold"}, "this server has 'toy', not 'gold'"),
        ({"groups": [{"prompt": "x", "responses": ["y"], "token_ids": []}]}, "but 0 token_ids"),
        ({"groups": [{"prompt": [], "responses": ["y"]}]}, "prompt is an empty list"),
        ({"groups": [{"prompt": "x", "responses": ["y"]}]}, "conversations"),
    ],
)
def test_bad_requests_get_one_line(toy_url, body, said):
    content = body if isinstance(body, bytes) else json.dumps(body)
    answer = httpx.post(f"{toy_url}/score", content=content)
    message = answer.json()["error"]
    assert answer.status_code == 400 and said in message and "\n" not in message


def test_requests_too_large_are_refused_whole():
    toy = Toy()
    with served(build_app(toy, max_batch=3, max_bytes=100_000)) as url:
        with pytest.raises(RewardError, match=words("413 4 scores in one request at most 3")):
            RemoteReward(url, **FAST).score(["x"] * 4)
        for size in (200_000, 20_000_000):
            with pytest.raises(RewardError, match=r"413 .*larger than 100000 bytes"):
                RemoteReward(url, **FAST).score(["x" * size])
    assert toy.calls == 0


def test_the_token_guards_all_but_health():
    toy = Toy()
    with served(build_app(toy, token="s3cret", name="named")) as url:
        for token in (None, "wrong", "s3cret2", "S3CRET"):
            with pytest.raises(RewardError, match=r"401 .*token"):
                RemoteReward(url, token=token, **FAST).score(["x" * 3_000_000])
        assert toy.calls == 0
        assert RemoteReward(url, token="s3cret", model="named", **FAST).score(["xxx"]) == [1]
        routes = ["/get_reward", "/score"]
        health = {"status": "ok", "routes": routes, "version": 1}
        assert httpx.get(f"{url}/health").json() == health
        unknown = httpx.post(f"{url}/nope")
        assert unknown.status_code == 404 and "/score" in unknown.json()["error"]
        assert httpx.get(f"{url}/score").status_code == 405


def test_what_cannot_be_served_is_said_at_once():
    with pytest.raises(InputError, match="neither a reward nor a judge"):
        build_app(object())
    with pytest.raises(InputError, match=words("0.0.0.0 reached by others token")):
        serve(Toy(), host="0.0.0.0")
    with served(build_app(Toy())) as url, pytest.raises(InputError, match="cannot listen on"):
        serve(Toy(), port=int(url.rsplit(":", 1)[1]))
    with pytest.raises(InputError, match="token_env=NO_SUCH_VARIABLE_HERE"):
        serve(Toy(), token_env="NO_SUCH_VARIABLE_HERE")


SERVING = """
import logging
from rewards.functions.reward import FunctionReward
from rewards.remote import serve
logging.basicConfig(level=logging.INFO)
try:
    serve(FunctionReward(lambda prompts, **_: [1.0 for _ in prompts]), port=0, token="t")
except KeyboardInterrupt:
    raise SystemExit(130)
"""


@pytest.mark.slow
def test_serve_listens_until_it_is_interrupted():
    process = subprocess.Popen(
        [sys.executable, "-c", SERVING],
        stderr=subprocess.PIPE,
        text=True,
        # a shell may have started the tests with the signal ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stderr is not None
        found = next(
            match
            for line in process.stderr
            if (match := re.search(r"serving on (\S+) \((.*)\)", line))
        )
        assert found[1].startswith("http://127.0.0.1:") and found[2] == "token needed"
        assert RemoteReward(found[1], token="t", retries=5, backoff=0.05).score(TALKS[:1]) == [1]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    finally:
        process.kill()
        process.communicate()
