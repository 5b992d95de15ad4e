"""What a prompt, a completion and a group of K are. Knows nothing of engines, rewards or files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, TypeVar

from rollout.errors import EngineError, InputError, StaleWeightsError, WorkerDiedError

__all__ = [
    "Completion",
    "Conversation",
    "EngineError",
    "FinishReason",
    "Group",
    "InputError",
    "Message",
    "Prompt",
    "Sampling",
    "StaleWeightsError",
    "WorkerDiedError",
    "conversation",
]


_T = TypeVar("_T")


def setting(default: _T, description: str, **bounds: float) -> _T:
    """A dataclass field that a config section can inherit: pydantic reads the description and the
    bounds (`ge`, `gt`, `le`, `lt`) from its metadata, and checks them where the section is read."""
    return field(default=default, metadata={"description": description, **bounds})


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


Conversation = Sequence[Message]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the policy is asked.

    `content` is plain text that the policy continues, or a list of messages that it answers.
    `token_ids` is what the engine sees (filled in by `rollout.text.templates`). `fields` are the
    other columns of the row (a reference answer, say), handed on to reward functions.
    """

    id: str
    content: str | tuple[Message, ...]
    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampling:
    """How responses are drawn: `k` per prompt. `top_k=0` keeps the whole vocabulary.

    `stop` strings are cut from the text; their tokens stay in `token_ids`, since a policy that is
    to stop there must be trained on them. `temperature=0` is greedy decoding and needs `k=1`.
    """

    k: int = setting(8, "responses per prompt", ge=1)
    temperature: float = setting(1.0, "0 takes the likeliest token each time", ge=0, le=2)
    top_p: float = setting(1.0, "only the likeliest tokens of this total probability", gt=0, le=1)
    top_k: int = setting(0, "only so many of the likeliest tokens; 0 keeps all", ge=0)
    max_new_tokens: int = setting(128, "longest response, in tokens", ge=1)
    min_new_tokens: int = setting(0, "shortest response, in tokens", ge=0)
    stop: tuple[str, ...] = setting((), "texts that end a response, and are cut from it")
    seed_per_prompt: bool = setting(
        True, "samples depend on (seed, iteration, prompt) alone; costs 15-40 % speed"
    )


@dataclass(frozen=True, slots=True)
class Completion:
    """One drawn response. `finish_reason` is "length" when the sample was cut at the limit."""

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason = "stop"
    seed: int | None = None

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class Group:
    """The K completions of one prompt, all drawn by policy version `policy_version`."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    policy_version: int


def conversation(prompt: Prompt, response: str) -> list[Message]:
    """The messages a reward model reads. A plain-text prompt counts as one user turn."""
    turns: list[Message] = (
        [Message(role="user", content=prompt.content)]
        if isinstance(prompt.content, str)
        else [Message(role=m["role"], content=m["content"]) for m in prompt.content]
    )
    return [*turns, Message(role="assistant", content=response)]
