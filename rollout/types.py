"""What a prompt, a completion and a group of K are. Knows nothing of engines, rewards or files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

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

    k: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 128
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()


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
