"""What a server does with a request, without HTTP: read it, then score when its turn comes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from rewards.formats import Rendered
from rewards.remote.protocols import VERSION
from rewards.remote.wire import CompareRequest, GetRewardRequest, Refusal, ScoreRequest, read
from rewards.types import Comparison, RewardError
from rollout.types import Completion, Group, InputError, Prompt

__all__ = ["Service"]

Job = Callable[[], dict[str, Any]]


class Service:
    """The routes that a reward (`score` or `score_groups`) or a judge (`compare`) can serve.

    A route takes a request's bytes, raises `Refusal` when it is wrong, and returns the job that
    answers it: reading is cheap and may overlap, jobs may not.
    Raises `InputError` for an object that is neither reward nor judge.
    """

    def __init__(self, served: Any, name: str, max_batch: int) -> None:
        self.served = served
        self.name = name
        self.max_batch = max_batch
        self.routes: dict[str, Callable[[bytes], Job]] = {}
        if hasattr(served, "score_groups") or hasattr(served, "score"):
            self.routes["/score"] = self.score
        if hasattr(served, "score"):
            self.routes["/get_reward"] = self.get_reward
        if hasattr(served, "compare"):
            self.routes["/compare"] = self.compare
        if not self.routes:
            raise InputError(
                f"{type(served).__name__} cannot be served: it is neither a reward nor a judge"
            )

    def health(self) -> dict[str, Any]:
        # no name, which may be a path: whoever asks has shown no token
        return {"status": "ok", "routes": sorted(self.routes), "version": VERSION}

    def score(self, body: bytes) -> Job:
        request = read(ScoreRequest, body)
        self._check_model(request.model)
        if request.groups is not None:
            groups = [row.group(number) for number, row in enumerate(request.groups)]
            self._check_size(sum(len(group.completions) for group in groups))
            return lambda: {"scores": self._score_groups(groups), **self._signature()}
        turns = request.turns()
        self._check_size(len(turns))
        if hasattr(self.served, "score"):
            return lambda: {"scores": self._score(turns), **self._signature()}
        groups = [_as_group(one, number) for number, one in enumerate(turns)]
        return lambda: {
            "scores": [one for row in self._score_groups(groups) for one in row],
            **self._signature(),
        }

    def get_reward(self, body: bytes) -> Job:
        request = read(GetRewardRequest, body)
        self._check_size(len(request.query))
        # OpenRLHF's clients apply the template themselves
        texts = [Rendered(text) for text in request.query]
        return lambda: {"rewards": self._all_present(self._score(texts))}

    def compare(self, body: bytes) -> Job:
        request = read(CompareRequest, body)
        self._check_model(request.model)
        self._check_size(len(request.comparisons))
        pairs = [pair.comparison() for pair in request.comparisons]
        return lambda: {"probabilities": self._compare(pairs), **self._signature()}

    def _score(self, conversations: Sequence[Any]) -> list[float | None]:
        if not conversations:
            return []
        return _numbers(self.served.score(conversations), len(conversations))

    def _score_groups(self, groups: Sequence[Group]) -> list[list[float | None]]:
        if not hasattr(self.served, "score_groups"):
            raise Refusal(400, 'this reward scores "conversations" only')
        rows = self.served.score_groups(groups)
        if len(rows) != len(groups):
            raise RewardError(f"the reward gave {len(rows)} lists for {len(groups)} groups")
        pairs = zip(rows, groups, strict=True)
        return [_numbers(row, len(group.completions)) for row, group in pairs]

    def _compare(self, pairs: Sequence[Comparison]) -> list[float | None]:
        if not pairs:
            return []
        verdicts = self.served.compare(pairs)
        # `rewards.verdicts.Verdicts` say more than their probabilities
        return _numbers(getattr(verdicts, "probability_N", verdicts), len(pairs))

    def _all_present(self, scores: list[float | None]) -> list[float | None]:
        # OpenRLHF makes a tensor of what it gets: it has no missing scores
        if None in scores:
            raise RewardError(f"no score for query {scores.index(None)}")
        return scores

    def _check_size(self, count: int) -> None:
        if count > self.max_batch:
            raise Refusal(413, f"{count} scores in one request; at most {self.max_batch}")

    def _check_model(self, model: str | None) -> None:
        if model is not None and model != self.name:
            raise Refusal(400, f"this server has {self.name!r}, not {model!r}")

    def _signature(self) -> dict[str, Any]:
        return {"model": self.name, "version": VERSION}


def _as_group(conversation: Any, number: int) -> Group:
    """A conversation for a reward that reads groups only: what comes before is the prompt."""
    where = f"conversations.{number}"
    if isinstance(conversation, str):
        raise Refusal(400, f"{where}: this reward scores messages, not whole texts")
    if len(conversation) < 2 or conversation[-1]["role"] != "assistant":
        raise Refusal(400, f"{where}: a prompt and, last, the assistant's response are needed")
    prompt = Prompt(f"conversation {number}", tuple(conversation[:-1]))
    return Group(prompt, (Completion(conversation[-1]["content"], (), "stop"),), policy_version=0)


def _numbers(values: Any, expected: int) -> list[float | None]:
    """Scores as JSON numbers; NaN and None are missing. Infinity is an error, as a count is."""
    numbers = [math.nan if value is None else float(value) for value in values]
    if len(numbers) != expected:
        raise RewardError(f"the reward gave {len(numbers)} scores for {expected}")
    if any(math.isinf(number) for number in numbers):
        raise RewardError("the reward gave an infinite score")
    return [None if math.isnan(number) else number for number in numbers]
