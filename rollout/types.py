"""Prompts, responses and groups of K responses, independent of engines, rewards and files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, TypedDict, TypeVar, cast

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
    "continued",
    "conversation",
    "judged_sides",
    "with_keys",
]


_T = TypeVar("_T")


def setting(default: _T, description: str, **bounds: float) -> _T:
    """Return a dataclass field that a config section can inherit.

    Pydantic reads the description and the bounds (`ge`, `gt`, `le`, `lt`) from the field's metadata
    and checks the bounds when the section is read.
    """
    return field(default=default, metadata={"description": description, **bounds})


class Message(TypedDict):
    """One turn of a conversation, as `rollout.data.messages` checks it.

    Only the first message has `tools`: the tools of the whole conversation, for the chat template.
    """

    role: str
    content: str
    name: NotRequired[str]
    tool_calls: NotRequired[list[object]]
    tool_call_id: NotRequired[str]
    reasoning_content: NotRequired[str]
    tools: NotRequired[list[object]]


Conversation = Sequence[Message]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the policy is asked.

    `content` is plain text that the policy continues, or messages that it responds to; the last
    message may be the beginning of an assistant's message, which the policy then continues.
    `token_ids` is what the engine sees (filled in by `rollout.text.templates`). `fields` are the
    other columns of the row (a reference answer, say), handed on to reward functions. `samples` are
    the indices of the wanted responses, increasing; where it is empty an engine draws the first k.
    """

    id: str
    content: str | tuple[Message, ...]
    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    token_ids: tuple[int, ...] = ()
    samples: tuple[int, ...] = ()


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
        True, "samples depend on (seed, iteration, prompt) alone; costs 15-40 % speed on a CPU"
    )

    def numbers(self, prompt: Prompt) -> Sequence[int]:
        """Return the indices of the responses to draw: the prompt's `samples`, else 0 to k - 1."""
        return prompt.samples or range(self.k)


@dataclass(frozen=True, slots=True)
class Completion:
    """One drawn response. `finish_reason` is "length" when the sample was cut at the limit.

    `message` is the whole response where it has more than a text (tool calls, reasoning).
    """

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason = "stop"
    seed: int | None = None
    message: Message | None = None

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"

    @property
    def answer(self) -> Message:
        """The response as an assistant's message."""
        return self.message or Message(role="assistant", content=self.text)


@dataclass(frozen=True, slots=True)
class Group:
    """The K completions of one prompt, all drawn by policy version `policy_version`."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    policy_version: int


def conversation(prompt: Prompt, response: Completion) -> list[Message]:
    """Return the messages of a prompt and its response, as a reward model reads them.

    A plain-text prompt counts as one user turn. Where the prompt ends with the beginning of an
    assistant's message, the response is joined to that message.
    """
    turns: list[Message] = (
        [Message(role="user", content=prompt.content)]
        if isinstance(prompt.content, str)
        else [message.copy() for message in prompt.content]
    )
    return continued(turns, response.answer)


def continued(turns: Sequence[Message], answer: Message) -> list[Message]:
    """Return `turns` with `answer` appended, or joined to the assistant's message at their end."""
    if not turns or turns[-1]["role"] != "assistant":
        return [*turns, answer]
    whole = turns[-1]["content"] + answer["content"]
    return [*turns[:-1], with_keys(turns[-1], **{**answer, "content": whole})]


def with_keys(message: Message, **keys: object) -> Message:
    """Return a copy of the message with `keys` set to new values."""
    return cast(Message, {**message, **keys})


def judged_sides(group: Group) -> tuple[tuple[Message, ...], list[str]]:
    """Return what a judge reads: the messages before the response, and K >= 0 responses' texts.

    Where the prompt ends with the beginning of an assistant's message, each text includes it.
    Raises InputError for a response with tool calls or reasoning, which judges do not read.
    """
    drawn = [conversation(group.prompt, one) for one in (*group.completions, Completion(""))]
    for one in drawn:
        unread = [key for key in ("tool_calls", "reasoning_content") if key in one[-1]]
        if unread:
            raise InputError(
                f"prompt {group.prompt.id!r}",
                f"a response has {unread[0]}, which judges do not read",
                "score it with a reward model",
            )
    return tuple(drawn[-1][:-1]), [one[-1]["content"] for one in drawn[:-1]]
