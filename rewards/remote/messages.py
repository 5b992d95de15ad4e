"""Define and check what travels between clients and servers; each error is one line.

Requests are those that our server reads; answers are those of our server, OpenRLHF's and vLLM's.
Neither side trusts the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    GetPydanticSchema,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import no_info_plain_validator_function

from rewards.spec_reader import in_words
from rewards.types import Comparison, RewardError
from rollout.data.jsonl import is_list, is_object
from rollout.data.messages import MESSAGE_KEYS, check_messages
from rollout.data.messages import read_answer as answer_of
from rollout.types import Completion, FinishReason, Group, InputError, Message, Prompt

__all__ = [
    "VERSION",
    "Answer",
    "CompareRequest",
    "GetRewardRequest",
    "GroupScores",
    "Probabilities",
    "Refusal",
    "Rewards",
    "ScoreRequest",
    "Scores",
    "VLLMAnswer",
    "check_count",
    "check_model",
    "read_answer",
    "read_request",
]

# the version of our JSON
VERSION = 1


class Refusal(Exception):
    """A request that is refused, with an HTTP status and a message of one line.

    `closes`: the connection is closed, without reading the rest of the request's body.
    """

    def __init__(self, status: int, message: str, *, closes: bool = False) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.closes = closes


class _Strict(BaseModel):
    # an unknown key is a misspelt one, and ignoring it would score something else
    model_config = ConfigDict(extra="forbid", strict=True)


def _checked(value: object) -> list[Message]:
    for message in value if is_list(value) else ():
        # an unknown key is a misspelt one here too
        unknown = sorted(set(message) - MESSAGE_KEYS) if is_object(message) else []
        if unknown:
            raise ValueError(f"a message has the unknown key {unknown[0]!r}")
    try:
        return check_messages(value, "messages", "messages")
    except InputError as error:
        raise ValueError(str(error)) from error


def _answered(value: object) -> Completion:
    try:
        return answer_of(value, "responses", "a response")
    except InputError as error:
        raise ValueError(str(error)) from error


def _read_by(check: Callable[[object], object]) -> GetPydanticSchema:
    return GetPydanticSchema(lambda source, handler: no_info_plain_validator_function(check))


# messages as files may have them: roles by other names, tool calls, content parts
Turns = Annotated[list[Message], _read_by(_checked)]
Answered = Annotated[Completion, _read_by(_answered)]


class Row(_Strict):
    """One prompt and its K responses."""

    id: str | None = None
    prompt: str | Turns
    responses: list[Answered]
    fields: dict[str, object] = Field(default_factory=dict)
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
        completions = tuple(
            replace(one, token_ids=tuple(own), finish_reason=end) for one, own, end in samples
        )
        content = self.prompt if isinstance(self.prompt, str) else tuple(self.prompt)
        prompt = Prompt(self.id or f"group {number}", content, self.fields)
        return Group(prompt, completions, policy_version=0)


class _Asking(_Strict):
    """A request in our JSON; `ids` has one per item, and the answer repeats them."""

    ids: list[str] | None = None
    model: str | None = None

    def check_ids(self, count: int) -> None:
        if self.ids is not None and not len(self.ids) == len(set(self.ids)) == count:
            raise Refusal(400, f'"ids" are not {count} different ones')


class ScoreRequest(_Asking):
    conversations: list[Turns | str] | None = None
    groups: list[Row] | None = None

    @model_validator(mode="after")
    def _check(self) -> ScoreRequest:
        if (self.conversations is None) == (self.groups is None):
            raise ValueError('give either "conversations" or "groups"')
        return self

    def turns(self) -> list[list[Message] | str]:
        return self.conversations or []


class Pair(_Strict):
    prompt: Turns
    first: str
    second: str

    def comparison(self) -> Comparison:
        return Comparison(self.prompt, self.first, self.second)


class CompareRequest(_Asking):
    comparisons: list[Pair]


class GetRewardRequest(BaseModel):
    """OpenRLHF's request. Its clients send more keys, which are ignored, as no model reads them."""

    model_config = ConfigDict(extra="ignore", strict=True)
    query: list[str]


class Answer(BaseModel):
    """A server's answer; unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)


class _Signed(Answer):
    """An answer in our JSON, with its model, its version and the ids of the request."""

    model: object = None
    version: object = VERSION
    ids: list[str] | None = None

    def check(self, model: str | None, ids: list[str]) -> None:
        """Check that this answers the request. Raises `RewardError` for another version, another
        model than `model` (None takes any), or other ids than `ids` in their order."""
        if self.version != VERSION:
            raise RewardError(
                f"it speaks version {self.version!r} of our JSON, this client {VERSION}"
            )
        check_model(self.model, model)
        if self.ids is None:
            raise RewardError('its answer has no "ids": it must repeat those of the request')
        if self.ids != ids:
            raise RewardError("it answers other ids than it was asked, or in another order")


class Scores(_Signed):
    """Scores of conversations; null is a missing one.

    NaN and infinity are left to the caller's policy.
    """

    scores: list[float | None]


class GroupScores(_Signed):
    scores: list[list[float | None]]


class Probabilities(_Signed):
    probabilities: list[float | None]


class Rewards(Answer):
    """OpenRLHF's answer."""

    rewards: list[float | None]


class VLLMRow(Answer):
    """One result of `/classify` (`probs`) or `/pooling` (`data`)."""

    index: int
    values: list[float | list[object] | None] = Field(
        validation_alias=AliasChoices("probs", "data")
    )


class VLLMAnswer(Answer):
    data: list[VLLMRow]
    model: object = None


R = TypeVar("R", bound=BaseModel)
A = TypeVar("A", bound=Answer)


def read_request(kind: type[R], body: bytes) -> R:
    """Return the request in `body`. Raises `Refusal` (400) naming the first thing that is wrong."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        where, message = _first(error)
        raise Refusal(400, f"{where}: {message}" if where else message) from error


def read_answer(kind: type[A], answer: object) -> A:
    """Return a server's answer as `kind`. Raises `RewardError` naming the first thing wrong."""
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        where, message = _first(error)
        if not where:
            raise RewardError(f"it answered no JSON object but {_short(answer)}") from error
        given = error.errors()[0]["input"]
        if message == "missing" and isinstance(given, dict):
            found = ", ".join(map(str, list(given)[:5])) or "nothing"
            message = f"is missing (there is {found[:100]})"
        raise RewardError(f'its answer: "{where}": {message}: check the protocol') from error


def check_count(found: int, expected: int, key: str) -> None:
    """Check that a server answered as many entries as it was asked for. Raises `RewardError`."""
    if found != expected:
        raise RewardError(f'"{key}" has {found} entries where {expected} were asked for')


def check_model(found: object, model: str | None) -> None:
    """Check that the model asked for answered. Raises `RewardError`.

    Passes where no `model` was asked for, or the answer names none.
    """
    if model is not None and found is not None and found != model:
        raise RewardError(f"model {_short(found)} answered, not {model!r}: check the setting model")


def _first(error: ValidationError) -> tuple[str, str]:
    """Return (where, what) of the first thing that is wrong."""
    first: ErrorDetails = error.errors(include_url=False)[0]
    places = map(str, first["loc"])
    where = ".".join(part for part in places if not part.startswith("function-"))
    return where, in_words(first).replace("a section of key: value", "an object")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
