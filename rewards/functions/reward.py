"""Use a reward function with TRL's signature as a `Reward`.

The calling convention is that of trl's GRPOTrainer (`_calculate_rewards`): keyword lists `prompts`,
`completions`, `completion_ids` and one list per dataset column, N entries each; plain-text prompts
come with string completions, conversational ones with `[{"role": "assistant", "content": …}]`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import deepcopy
from numbers import Real
from typing import Any

import numpy as np

from rewards.encoding.formats import Scorable, name_conversations
from rewards.functions.resolve import build_function, resolve_function
from rewards.functions.user_code import user_code
from rewards.types import NonFinite, RewardError, Scores, check_non_finite, finite_or_missing
from rollout.data.messages import checked_conversation, split_response
from rollout.types import Completion, Group, InputError, Message, Prompt

__all__ = ["ConversationFunction", "FunctionReward"]

RESERVED = ("prompts", "completions", "completion_ids")


class FunctionReward:
    """Scores groups with a function.

    Args:
        function: a callable, or what `rewards.functions.resolve.resolve_function` understands.
        name: for messages; by default the function's own name.
        arguments: settings fixed at build time; they win over columns of the same name.
        non_finite: "raise", or "missing" to count NaN and infinity as missing scores.

    Raises `InputError` when the function is not found or a built-in's settings are wrong.
    """

    def __init__(
        self,
        function: str | Callable[..., object],
        name: str | None = None,
        arguments: Mapping[str, object] | None = None,
        *,
        non_finite: NonFinite = "raise",
    ) -> None:
        check_non_finite(non_finite)
        found = resolve_function(function) if isinstance(function, str) else function
        given = function if isinstance(function, str) else getattr(function, "__name__", "function")
        self.name = name or given
        self.non_finite: NonFinite = non_finite
        self._arguments = frozenset(arguments or {})
        self._call = build_function(found, self.name, arguments or {})
        self._accepted = _named_parameters(found)

    def score_groups(self, groups: Sequence[Group]) -> Scores:
        """Return K scores per group, in order, from one call of the function.

        The call gets all N = Σ K completions. Raises `RewardError` when the function raises, or
        returns another count than N, something that is no number, or (unless
        `non_finite="missing"`) NaN or infinity.
        """
        samples = [(group.prompt, one) for group in groups for one in group.completions]
        if not samples:
            return [[] for _ in groups]
        with user_code(lambda told: RewardError(f"{self._told} {told} (for {_ids(samples)})")):
            flat = iter(self._checked(self._run(samples), samples))
        return [[next(flat) for _ in group.completions] for group in groups]

    @property
    def _told(self) -> str:
        return f"reward function {self.name!r}"

    def _run(self, samples: Sequence[tuple[Prompt, Completion]]) -> object:
        keywords = self._keywords(samples)
        try:
            result = self._call(**keywords)
            return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result
        except InputError as error:
            raise InputError(self._told, error) from error

    def _keywords(self, samples: Sequence[tuple[Prompt, Completion]]) -> dict[str, object]:
        keywords: dict[str, object] = {
            "prompts": [_trl_prompt(prompt) for prompt, _ in samples],
            "completions": [_trl_completion(prompt, one) for prompt, one in samples],
            "completion_ids": [list(one.token_ids) for _, one in samples],
            **self._columns(samples),
        }
        if self._accepted is None:
            return keywords
        return {key: value for key, value in keywords.items() if key in self._accepted}

    def _columns(self, samples: Sequence[tuple[Prompt, Completion]]) -> dict[str, list[object]]:
        names = dict.fromkeys(name for prompt, _ in samples for name in prompt.fields)
        reserved = [name for name in RESERVED if name in names]
        if reserved:
            raise InputError(
                self._told,
                f"the prompts have a column {reserved[0]!r}, a name reserved for the "
                "function's own arguments",
                "rename the column",
            )
        return {
            name: [prompt.fields.get(name) for prompt, _ in samples]
            for name in names
            if name not in self._arguments
        }

    def _checked(
        self, result: object, samples: Sequence[tuple[Prompt, Completion]]
    ) -> list[float | None]:
        values = self._as_list(result, samples)
        if len(values) != len(samples):
            raise RewardError(
                f"{self._told} returned {len(values)} scores for {len(samples)} "
                f"completions (of {_ids(samples)}): return exactly one per completion"
            )
        return [
            self._score(value, prompt) for value, (prompt, _) in zip(values, samples, strict=True)
        ]

    def _as_list(self, result: Any, samples: Sequence[tuple[Prompt, Completion]]) -> list[object]:
        # arrays and tensors are accepted as lists are
        values = result.tolist() if hasattr(result, "tolist") else result
        if isinstance(values, list | tuple):
            return list(values)
        raise RewardError(
            f"{self._told} returned a {type(result).__name__} "
            f"(for {_ids(samples)}): return a list with one number or None per completion"
        )

    def _score(self, value: Any, prompt: Prompt) -> float | None:
        if value is None:
            return None
        number = value.item() if hasattr(value, "item") else value
        where = f"prompt {prompt.id!r}"
        if not isinstance(number, Real):
            raise RewardError(
                f"{self._told} returned {number!r} for {where}: a score is a number or None"
            )
        try:
            score = float(number)
        except OverflowError as error:
            raise RewardError(f"{self._told} returned a number too large for {where}") from error
        source = self._told
        return finite_or_missing(score, source=source, where=where, non_finite=self.non_finite)


class ConversationFunction(FunctionReward):
    """A function that scores conversations too, as a reward model does."""

    def score(self, conversations: Sequence[Scorable]) -> np.ndarray:
        """Return the scores (N,), float64, of N conversations; NaN where one is missing.

        The last message of each is the response. Raises as `score_groups` does, and `InputError`
        for a plain text.
        """
        groups: list[Group] = []
        for name, one in zip(name_conversations(conversations), conversations, strict=True):
            if isinstance(one, str):
                raise InputError(
                    name, "is a plain text, whose response is unknown", "give messages"
                )
            before, response = split_response(checked_conversation(one, name), name, "messages")
            groups.append(Group(Prompt(name, before), (response,), 0))
        found = [score for (score,) in self.score_groups(groups)]
        return np.array([np.nan if score is None else score for score in found], dtype=np.float64)


def _named_parameters(function: Callable[..., object]) -> frozenset[str] | None:
    """Return the names that a function without `**kwargs` accepts.

    Return None when it takes every column, or its signature is unknown.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (
        TypeError,
        ValueError,
    ):  # some compiled callables have no signature: give them everything
        return None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters)


async def _awaited(result: Awaitable[object]) -> object:
    return await result


def _trl_prompt(prompt: Prompt) -> str | list[Message]:
    """Return a copy of a prompt in TRL's form: a text, or a list of messages.

    It is a copy because a function may change its arguments, but not the run's prompts.
    """
    if isinstance(prompt.content, str):
        return prompt.content
    return deepcopy(list(prompt.content))


def _trl_completion(prompt: Prompt, completion: Completion) -> str | list[Message]:
    if isinstance(prompt.content, str) and completion.message is None:
        return completion.text
    return [deepcopy(completion.answer)]


def _ids(samples: Sequence[tuple[Prompt, Completion]], limit: int = 5) -> str:
    ids = list(dict.fromkeys(prompt.id for prompt, _ in samples))
    more = f" and {len(ids) - limit} more" if len(ids) > limit else ""
    plural = "prompts" if len(ids) > 1 else "prompt"
    return f"{plural} {', '.join(repr(one) for one in ids[:limit])}{more}"
