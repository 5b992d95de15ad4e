"""Encode the requests to each kind of reward server, and decode its answers.

- "raft": our own JSON, version 1; see `rewards.remote`.
- "openrlhf": `{"query": [whole texts], "prompts": […], "labels": […]}` → `{"rewards": […]}`, as
  openrlhf/cli/serve_rm.py and its client in openrlhf/utils/agent.py have it; other keys of the
  answer ("scores", "extra_logs") are not read.
- vLLM's two are in `rewards.remote.vllm_protocol`.

An item is one thing to send; items travel in batches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Protocol, cast

from rewards.encoding.formats import Scorable, Turns
from rewards.remote.messages import (
    GroupScores,
    Probabilities,
    Rewards,
    Scores,
    check_count,
    read_answer,
)
from rewards.remote.texts import Texts
from rewards.types import Comparison
from rollout.data.messages import checked_conversation
from rollout.types import Group, InputError, Message, Prompt

__all__ = [
    "Item",
    "OpenRLHF",
    "RaftComparisons",
    "RaftConversations",
    "RaftGroups",
    "ScoreProtocol",
    "batched",
    "name_all",
]


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to send, for which `count` scores are expected. `name` is for messages."""

    content: object
    name: str
    count: int = 1


def batched(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Return batches of consecutive items, of `size` scores at most.

    An item of more scores is a batch of its own, and never cut.
    """
    batches: list[list[Item]] = []
    room = 0
    for item in items:
        if not batches or item.count > room:
            batches.append([])
            room = size
        batches[-1].append(item)
        room -= item.count
    return batches


def name_all(items: Iterable[Item], limit: int = 5) -> str:
    """Return the first `limit` names of the items for a message, and how many more there are."""
    names = list(dict.fromkeys(item.name for item in items))
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def check_positive(**settings: float) -> None:
    """Check that every setting is a finite number above 0. Raises `InputError`."""
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < float("inf"):
            raise InputError(f"{name}={value!r}", "must be a number above 0")


class ScoreProtocol(Protocol):
    """One way of asking a server for scores."""

    route: str

    def items(
        self, conversations: Sequence[Scorable], names: Sequence[str], labels: Sequence[object]
    ) -> list[Item]:
        """Return what is sent of N conversations. Raises `InputError` for one that does not fit."""
        ...

    def encode(self, items: Sequence[Item]) -> dict[str, object]:
        """Return the JSON of one request."""
        ...

    def decode(self, answer: object, items: Sequence[Item]) -> list[float | None]:
        """Return the scores of one answer, None for a missing one.

        Raises `RewardError` for an answer that does not fit the request.
        """
        ...


class RaftConversations:
    """Our JSON for conversations and whole texts."""

    route = "/score"

    def __init__(self, model: str | None = None) -> None:
        self.model = model

    def items(
        self, conversations: Sequence[Scorable], names: Sequence[str], labels: Sequence[object]
    ) -> list[Item]:
        bodies = [one if isinstance(one, str) else _turns(one) for one in conversations]
        return [Item(body, name) for body, name in zip(bodies, names, strict=True)]

    def encode(self, items: Sequence[Item]) -> dict[str, object]:
        return _request("conversations", items, self.model)

    def decode(self, answer: object, items: Sequence[Item]) -> list[float | None]:
        found = read_answer(Scores, answer)
        found.check(self.model, _ids(items))
        check_count(len(found.scores), len(items), "scores")
        return found.scores


class RaftGroups:
    """Our JSON for groups, with all that a reward function may read besides the conversation.

    `columns` are the columns of a prompt that are sent; None sends all.
    """

    route = "/score"

    def __init__(self, model: str | None = None, columns: Sequence[str] | None = None) -> None:
        self.model = model
        self.columns = columns

    def items(self, groups: Sequence[Group]) -> list[Item]:
        return [
            Item(self._row(group), f"prompt {group.prompt.id!r}", len(group.completions))
            for group in groups
        ]

    def encode(self, items: Sequence[Item]) -> dict[str, object]:
        return _request("groups", items, self.model)

    def decode(self, answer: object, items: Sequence[Item]) -> list[float | None]:
        found = read_answer(GroupScores, answer)
        found.check(self.model, _ids(items))
        check_count(len(found.scores), len(items), "scores")
        for row, item in zip(found.scores, items, strict=True):
            check_count(len(row), item.count, item.name)
        return [one for row in found.scores for one in row]

    def _row(self, group: Group) -> dict[str, object]:
        prompt, samples = group.prompt, group.completions
        content = prompt.content if isinstance(prompt.content, str) else _turns(prompt.content)
        return {
            "id": prompt.id,
            "prompt": content,
            "responses": [one.message or one.text for one in samples],
            "fields": self._fields(prompt),
            "token_ids": [list(one.token_ids) for one in samples],
            "finish_reasons": [one.finish_reason for one in samples],
        }

    def _fields(self, prompt: Prompt) -> dict[str, object]:
        if self.columns is None:
            return prompt.fields
        return {name: prompt.fields[name] for name in self.columns if name in prompt.fields}


class RaftComparisons:
    """Our JSON for judges."""

    route = "/compare"

    def __init__(self, model: str | None = None) -> None:
        self.model = model

    def items(self, comparisons: Sequence[Comparison]) -> list[Item]:
        return [
            Item(
                {"prompt": _turns(one.prompt), "first": one.first, "second": one.second},
                f"comparison {index}",
            )
            for index, one in enumerate(comparisons)
        ]

    def encode(self, items: Sequence[Item]) -> dict[str, object]:
        return _request("comparisons", items, self.model)

    def decode(self, answer: object, items: Sequence[Item]) -> list[float | None]:
        found = read_answer(Probabilities, answer)
        found.check(self.model, _ids(items))
        check_count(len(found.probabilities), len(items), "probabilities")
        return found.probabilities


class OpenRLHF:
    """OpenRLHF's reward server: whole texts, their prompts, and labels for rule-based ones."""

    route = "/get_reward"

    def __init__(self, texts: Texts) -> None:
        self.texts = texts

    def items(
        self, conversations: Sequence[Scorable], names: Sequence[str], labels: Sequence[object]
    ) -> list[Item]:
        queries = self.texts.queries(conversations, names)
        return [
            Item({"query": query, "prompt": prompt, "label": label}, name)
            for (query, prompt), label, name in zip(queries, labels, names, strict=True)
        ]

    def encode(self, items: Sequence[Item]) -> dict[str, object]:
        rows = [cast("dict[str, object]", item.content) for item in items]
        return {
            "query": [row["query"] for row in rows],
            "prompts": [row["prompt"] for row in rows],
            "labels": [row["label"] for row in rows],
        }

    def decode(self, answer: object, items: Sequence[Item]) -> list[float | None]:
        found = read_answer(Rewards, answer)
        check_count(len(found.rewards), len(items), "rewards")
        return found.rewards


def _turns(conversation: Turns) -> list[Message]:
    return checked_conversation(conversation, "conversation")


def _request(key: str, items: Sequence[Item], model: str | None) -> dict[str, object]:
    body = {key: [item.content for item in items], "ids": _ids(items)}
    return body if model is None else {**body, "model": model}


def _ids(items: Sequence[Item]) -> list[str]:
    """Return one id per item, of position and content, which an answer must repeat.

    So an answer in another order, or to another request, is found out.
    """
    return [f"{at}-{_digest(item.content)}" for at, item in enumerate(items)]


def _digest(content: object) -> str:
    text = json.dumps(content, default=str, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
