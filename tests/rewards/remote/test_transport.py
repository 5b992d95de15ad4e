"""The pure parts: waits, batches, addresses, settings."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wording import says

from rewards.remote import RemoteReward
from rewards.remote.address import is_loopback, make_address
from rewards.remote.protocols import Item, batched
from rewards.remote.transport import Backoff, retry_after
from rollout.types import InputError


def test_waits_double_up_to_a_limit_and_are_never_shorter_than_asked():
    longest = Backoff(0.5, 60.0, uniform=lambda low, high: high)
    assert [longest.wait(n) for n in (1, 2, 3, 8, 2000)] == [0.5, 1.0, 2.0, 60.0, 60.0]
    shortest = Backoff(0.5, 60.0, uniform=lambda low, high: low)
    assert [shortest.wait(n) for n in (1, 2, 3)] == [0.25, 0.5, 1.0]
    assert shortest.wait(1, asked=7.0) == 7.0
    assert len({Backoff().wait(9) for _ in range(20)}) > 1


def test_retry_after_is_seconds_or_a_date():
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry_after("5", now) == 5.0
    assert retry_after("Thu, 01 Jan 2026 00:00:30 GMT", now) == 30.0
    assert retry_after("Wed, 31 Dec 2025 00:00:00 GMT", now) == 0.0
    assert retry_after(None) is retry_after("soon") is retry_after("-1") is retry_after("²") is None


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 12))
def test_batches_keep_all_items_in_order_and_cut_none(counts, size):
    items = [Item(index, "x", count) for index, count in enumerate(counts)]
    batches = batched(items, size)
    assert [item for batch in batches for item in batch] == items
    for batch in batches:
        assert batch and (len(batch) == 1 or sum(item.count for item in batch) <= size)
    for left, right in pairwise(batches):
        assert sum(item.count for item in left) + right[0].count > size


@pytest.mark.parametrize(
    ("url", "final"),
    [
        ("http://127.0.0.1:8100", "http://127.0.0.1:8100/score"),
        ("https://rm.example/", "https://rm.example/score"),
        ("https://rm.example/v2/mine", "https://rm.example/v2/mine"),
        ("http://[::1]:8100", "http://[::1]:8100/score"),
    ],
)
def test_a_url_without_a_path_gets_the_route(url, final):
    assert make_address(url, "/score").url == final


def test_loopback_is_known():
    assert all(
        is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost")
    )
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "rm.example", ""))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "ftp://x"}, "give one like http"),
        ({"url": "127.0.0.1:8100"}, "give one like http"),
        ({"url": "http://u:pw@x"}, "use token_env"),
        ({"url": "http://x:port"}, "give one like http"),
        ({"url": "http://x/?key=1"}, "query or fragment"),
        ({"url": "http://x\n"}, "without spaces"),
        ({"protocol": "grpc"}, "use one of raft"),
        ({"token": "a", "token_env": "B"}, "token token_env both"),
        ({"token_env": "NO_SUCH_VARIABLE_HERE"}, "token_env=NO_SUCH_VARIABLE_HERE is empty or not"),
        ({"token": "a\nb"}, "no HTTP header can hold"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": math.inf}, "timeout=inf"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"concurrency": 1.5}, "concurrency=1.5"),
        ({"retries": -1}, "retries=-1"),
        ({"format": "hh"}, "has no use for format"),
        ({"label_column": "x"}, "has no use for label_column"),
        ({"truncation_side": "right"}, "has no use for truncation_side"),
        ({"assume_raw": True}, "has no use for assume_raw"),
        ({"non_finite": "zero"}, "non_finite='zero'"),
    ],
)
def test_settings_are_checked_when_built(settings, said):
    with pytest.raises(InputError) as caught:
        RemoteReward(**{"url": "http://127.0.0.1:1", **settings})
    message = str(caught.value)
    assert says(message, said) and "\n" not in message and "pw" not in message
