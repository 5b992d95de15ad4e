"""Pairs to rows of ids: what is left out is counted by its reason."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from wording import words

from rewards.data.pair import Pair
from rewards.encoding.encoder import Encoder
from rewards.training.examples import encode_pairs
from rollout.errors import InputError
from rollout.types import Message

tiny: Any = importlib.import_module("tiny_rewards")

REFUSES = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
)


def pair(number: int, *, system: bool) -> Pair:
    asked = Message(role="user", content=f"q{number}")
    prompt = (Message(role="system", content="be brief"), asked) if system else (asked,)
    return Pair(f"p{number}", prompt, f"a{number}", "b")


def test_pairs_that_a_template_refuses_are_skipped_on_request() -> None:
    encoder = Encoder(tiny.tokenizer(chat_template=REFUSES), "chat", "single", 300)
    pairs = [pair(number, system=number % 3 == 0) for number in range(9)]
    with pytest.raises(InputError, match=words("pair 'p0' no system")):
        encode_pairs(pairs, encoder)
    found = encode_pairs(pairs, encoder, on_bad_row="skip")
    assert [one.id for one in found.examples] == [f"p{n}" for n in range(9) if n % 3]
    ((reason, count),) = found.dropped.items()
    assert count == 3 and "no system" in reason
