"""Requests as our server reads them. Checked by pydantic; whatever is wrong is one line."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rewards.types import Comparison
from rollout.types import Completion, FinishReason, Group, Message, Prompt

__all__ = ["CompareRequest", "GetRewardRequest", "Refusal", "ScoreRequest", "read"]


class Refusal(Exception):
    """A request that is not answered: an HTTP status and one line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


class _Strict(BaseModel):
    # an unknown key is a misspelt one, and leaving it out would score something else
    model_config = ConfigDict(extra="forbid", strict=True)


class Turn(_Strict):
    role: str
    content: str

    def message(self) -> Message:
        return Message(role=self.role, content=self.content)


Turns = list[Turn]


class Row(_Strict):
    """One prompt and its K responses."""

    id: str | None = None
    prompt: str | Turns
    responses: list[str]
    fields: dict[str, Any] = Field(default_factory=dict)
    token_ids: list[list[int]] | None = None
    finish_reasons: list[FinishReason] | None = None

    @model_validator(mode="after")
    def _check(self) -> Row:
        if self.prompt == []:
            raise ValueError("prompt is an empty list")
        for name in ("token_ids", "finish_reasons"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.responses):
                raise ValueError(f"{len(self.responses)} responses, but {len(column)} {name}")
        return self

    def group(self, number: int) -> Group:
        size = len(self.responses)
        ids = self.token_ids or [[] for _ in range(size)]
        reasons: list[FinishReason] = self.finish_reasons or ["stop"] * size
        samples = zip(self.responses, ids, reasons, strict=True)
        completions = tuple(Completion(text, tuple(own), end) for text, own, end in samples)
        prompt = Prompt(self.id or f"group {number}", _content(self.prompt), self.fields)
        return Group(prompt, completions, policy_version=0)


class ScoreRequest(_Strict):
    conversations: list[Turns | str] | None = None
    groups: list[Row] | None = None
    model: str | None = None

    @model_validator(mode="after")
    def _check(self) -> ScoreRequest:
        if (self.conversations is None) == (self.groups is None):
            raise ValueError('give either "conversations" or "groups"')
        return self

    def turns(self) -> list[list[Message] | str]:
        return [
            one if isinstance(one, str) else [turn.message() for turn in one]
            for one in self.conversations or ()
        ]


class Pair(_Strict):
    prompt: Turns = Field(min_length=1)
    first: str
    second: str

    def comparison(self) -> Comparison:
        return Comparison([turn.message() for turn in self.prompt], self.first, self.second)


class CompareRequest(_Strict):
    comparisons: list[Pair]
    model: str | None = None


class GetRewardRequest(BaseModel):
    """OpenRLHF's. Its clients send more keys, which a reward model has no use for."""

    model_config = ConfigDict(extra="ignore", strict=True)
    query: list[str]


R = TypeVar("R", bound=BaseModel)


def read(kind: type[R], body: bytes) -> R:
    """The request in `body`. Raises `Refusal` (400) naming the first thing that is wrong."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise Refusal(400, f"{where}: {message}" if where else message) from error


def _content(prompt: str | Turns) -> str | tuple[Message, ...]:
    return prompt if isinstance(prompt, str) else tuple(turn.message() for turn in prompt)
