"""What each kind of reward server is sent and answers. Pure: knows JSON, and no HTTP.

- "raft": our own JSON, version 1; see `rewards.remote`.
- "openrlhf": `{"query": [whole texts], "prompts": […], "labels": […]}` → `{"rewards": […]}`, as
  openrlhf/cli/serve_rm.py and its client in openrlhf/utils/agent.py have it; other keys of the
  answer ("scores", "extra_logs") are not read.
- vLLM's two are in `rewards.remote.vllm_protocol`.

What travels: items, their batches, and numbers read back without trust.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

from rewards.encoding.formats import Scorable
from rewards.remote.texts import Texts
from rewards.types import Comparison, RewardError
from rollout.types import Conversation, Group, InputError, Prompt

__all__ = [
    "Item",
    "OpenRLHF",
    "RaftComparisons",
    "RaftConversations",
    "RaftGroups",
    "ScoreProtocol",
    "batched",
    "check_model",
    "entry",
    "name_all",
    "read_numbers",
]


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to send, which is to bring `count` scores. `name` is for messages."""

    content: Any
    name: str
    count: int = 1


def batched(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Consecutive items of `size` scores at most; an item of more goes alone, never cut."""
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
    """The names of items for a message, the first `limit` of them."""
    names = list(dict.fromkeys(item.name for item in items))
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def entry(answer: Any, key: str) -> Any:
    """`answer[key]`. Raises `RewardError` when the answer is no object or has no such key."""
    if not isinstance(answer, dict):
        raise RewardError(f'it answered a JSON {_kind(answer)}, not an object with "{key}"')
    if key not in answer:
        found = ", ".join(list(answer)[:5]) or "nothing"
        raise RewardError(f'its answer has no "{key}" (it has {found[:100]}): check the protocol')
    return answer[key]


def read_numbers(values: Any, expected: int, key: str) -> list[float | None]:
    """`expected` numbers, null as None; NaN and infinity are left to the caller's policy.

    Raises `RewardError` for another count, and for strings, booleans and anything else.
    """
    if not isinstance(values, list):
        raise RewardError(f'"{key}" is a JSON {_kind(values)}, not a list')
    if len(values) != expected:
        raise RewardError(f'"{key}" has {len(values)} entries where {expected} were asked for')
    return [_number(value, key) for value in values]


def check_model(answer: Any, model: str | None) -> None:
    """Raises `RewardError` when another model answered than the one that was asked for."""
    found = answer.get("model") if isinstance(answer, dict) else None
    if model is not None and found is not None and found != model:
        raise RewardError(f"model {_short(found)} answered, not {model!r}: check the setting model")


def check_positive(**settings: float) -> None:
    """Raises `InputError` for a setting that is no number above zero."""
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < float("inf"):
            raise InputError(f"{name}={value!r}", "must be a number above 0")


def _number(value: Any, key: str) -> float | None:
    if value is None:
        return None
    # a bool is an int to Python, and a "0.5" is a server that guesses
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RewardError(f'"{key}" has {_short(value)}: a score is a number or null')
    try:
        return float(value)
    except OverflowError as error:
        raise RewardError(f'"{key}" has a number too large for a score') from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


VERSION = 1


class ScoreProtocol(Protocol):
    """One way of asking for scores."""

    route: str

    def items(
        self, conversations: Sequence[Scorable], names: Sequence[str], labels: Sequence[Any]
    ) -> list[Item]:
        """What is sent of N conversations. Raises `InputError` for one that does not fit."""
        ...

    def encode(self, items: Sequence[Item]) -> dict[str, Any]:
        """The JSON of one request."""
        ...

    def decode(self, answer: Any, items: Sequence[Item]) -> list[float | None]:
        """The scores of one answer, None for a missing one. Raises `RewardError`."""
        ...


class RaftConversations:
    """Our JSON for conversations and whole texts."""

    route = "/score"

    def __init__(self, model: str | None = None) -> None:
        self.model = model

    def items(
        self, conversations: Sequence[Scorable], names: Sequence[str], labels: Sequence[Any]
    ) -> list[Item]:
        bodies = [one if isinstance(one, str) else _turns(one) for one in conversations]
        return [Item(body, name) for body, name in zip(bodies, names, strict=True)]

    def encode(self, items: Sequence[Item]) -> dict[str, Any]:
        return _with_model({"conversations": [item.content for item in items]}, self.model)

    def decode(self, answer: Any, items: Sequence[Item]) -> list[float | None]:
        _check_raft(answer, self.model)
        return read_numbers(entry(answer, "scores"), len(items), "scores")


class RaftGroups:
    """Our JSON for groups: what a function reads besides the conversation travels with it.

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

    def encode(self, items: Sequence[Item]) -> dict[str, Any]:
        return _with_model({"groups": [item.content for item in items]}, self.model)

    def decode(self, answer: Any, items: Sequence[Item]) -> list[float | None]:
        _check_raft(answer, self.model)
        rows = entry(answer, "scores")
        if not isinstance(rows, list) or len(rows) != len(items):
            size = len(rows) if isinstance(rows, list) else "no"
            raise RewardError(f'"scores" has {size} lists for {len(items)} groups')
        pairs = zip(rows, items, strict=True)
        return [one for row, item in pairs for one in read_numbers(row, item.count, item.name)]

    def _row(self, group: Group) -> dict[str, Any]:
        prompt, samples = group.prompt, group.completions
        content = prompt.content if isinstance(prompt.content, str) else _turns(prompt.content)
        return {
            "id": prompt.id,
            "prompt": content,
            "responses": [one.text for one in samples],
            "fields": self._fields(prompt),
            "token_ids": [list(one.token_ids) for one in samples],
            "finish_reasons": [one.finish_reason for one in samples],
        }

    def _fields(self, prompt: Prompt) -> dict[str, Any]:
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

    def encode(self, items: Sequence[Item]) -> dict[str, Any]:
        return _with_model({"comparisons": [item.content for item in items]}, self.model)

    def decode(self, answer: Any, items: Sequence[Item]) -> list[float | None]:
        _check_raft(answer, self.model)
        return read_numbers(entry(answer, "probabilities"), len(items), "probabilities")


class OpenRLHF:
    """OpenRLHF's reward server: whole texts, their prompts, and labels for rule-based ones."""

    route = "/get_reward"

    def __init__(self, texts: Texts) -> None:
        self.texts = texts

    def items(
        self, conversations: Sequence[Scorable], names: Sequence[str], labels: Sequence[Any]
    ) -> list[Item]:
        queries = self.texts.queries(conversations, names)
        return [
            Item((query, prompt, label), name)
            for (query, prompt), label, name in zip(queries, labels, names, strict=True)
        ]

    def encode(self, items: Sequence[Item]) -> dict[str, Any]:
        return {
            "query": [item.content[0] for item in items],
            "prompts": [item.content[1] for item in items],
            "labels": [item.content[2] for item in items],
        }

    def decode(self, answer: Any, items: Sequence[Item]) -> list[float | None]:
        return read_numbers(entry(answer, "rewards"), len(items), "rewards")


def _turns(conversation: Conversation | Any) -> list[dict[str, str]]:
    return [{"role": turn["role"], "content": turn["content"]} for turn in conversation]


def _with_model(body: dict[str, Any], model: str | None) -> dict[str, Any]:
    return body if model is None else {**body, "model": model}


def _check_raft(answer: Any, model: str | None) -> None:
    version = answer.get("version", VERSION) if isinstance(answer, dict) else VERSION
    if version != VERSION:
        raise RewardError(f"it speaks version {version!r} of our JSON, this client {VERSION}")
    check_model(answer, model)
