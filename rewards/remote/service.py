"""Read the requests to a served reward or judge, and make the jobs that answer them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rewards.encoding.formats import Rendered
from rewards.remote import messages as wire
from rewards.types import Comparison, RewardError
from rollout.types import Completion, Group, InputError, Message, Prompt

__all__ = ["Job", "Service"]

MAX_CHARS = 1 << 20  # the longest text

Job = Callable[[], wire.Answer]


class Service:
    """The routes that a reward (`score` or `score_groups`) or a judge (`compare`) can serve.

    A route takes a request's bytes, raises `Refusal` when they are wrong, and returns the job that
    answers it: reading is cheap and may overlap, jobs may not. Raises `InputError` for an object
    that is neither reward nor judge.
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
                type(served).__name__,
                "cannot be served: it is neither a reward nor a judge",
            )

    def health(self) -> dict[str, object]:
        # the name is not told, since it may be a path and this route asks for no token
        return {"status": "ok", "routes": sorted(self.routes), "version": wire.VERSION}

    def score(self, body: bytes) -> Job:
        request = wire.read_request(wire.ScoreRequest, body)
        self._check_model(request.model)
        signed = {"model": self.name, "ids": request.ids}
        if request.groups is not None:
            request.check_ids(len(request.groups))
            groups = [row.group(number) for number, row in enumerate(request.groups)]
            # a group without responses counts as one score
            self._check_size(sum(max(1, len(group.completions)) for group in groups))
            for group in groups:
                _check_length(_size(group.prompt.content), *map(_size, _texts(group)))
            return lambda: wire.GroupScores(scores=self._score_groups(groups), **signed)
        turns = request.turns()
        request.check_ids(len(turns))
        self._check_size(len(turns))
        _check_length(*map(_size, turns))
        if hasattr(self.served, "score"):
            return lambda: wire.Scores(scores=self._score(turns), **signed)
        groups = [_as_group(one, number) for number, one in enumerate(turns)]
        return lambda: wire.Scores(
            scores=[one for row in self._score_groups(groups) for one in row], **signed
        )

    def get_reward(self, body: bytes) -> Job:
        request = wire.read_request(wire.GetRewardRequest, body)
        self._check_size(len(request.query))
        _check_length(*map(_size, request.query))
        # OpenRLHF's clients apply the template themselves
        texts = [Rendered(text) for text in request.query]
        return lambda: wire.Rewards(rewards=self._all_present(self._score(texts)))

    def compare(self, body: bytes) -> Job:
        request = wire.read_request(wire.CompareRequest, body)
        self._check_model(request.model)
        request.check_ids(len(request.comparisons))
        self._check_size(len(request.comparisons))
        pairs = [pair.comparison() for pair in request.comparisons]
        for pair in pairs:
            _check_length(_size(pair.prompt) + len(pair.first) + len(pair.second))
        return lambda: wire.Probabilities(
            probabilities=self._compare(pairs), model=self.name, ids=request.ids
        )

    def _score(self, conversations: Sequence[object]) -> list[float | None]:
        if not conversations:
            return []
        return _numbers(self.served.score(conversations), len(conversations))

    def _score_groups(self, groups: Sequence[Group]) -> list[list[float | None]]:
        if not hasattr(self.served, "score_groups"):
            raise wire.Refusal(400, 'this reward scores "conversations" only')
        rows = self.served.score_groups(groups)
        if len(rows) != len(groups):
            raise RewardError(f"the reward gave {len(rows)} lists for {len(groups)} groups")
        pairs = zip(rows, groups, strict=True)
        return [_numbers(row, len(group.completions)) for row, group in pairs]

    def _compare(self, pairs: Sequence[Comparison]) -> list[float | None]:
        if not pairs:
            return []
        verdicts = self.served.compare(pairs)
        # `rewards.tournament.verdicts.Verdicts` hold more than their probabilities
        return _numbers(getattr(verdicts, "probability_N", verdicts), len(pairs))

    def _all_present(self, scores: list[float | None]) -> list[float | None]:
        # OpenRLHF makes a tensor of the scores, which has no place for a missing one
        if None in scores:
            raise RewardError(f"no score for query {scores.index(None)}")
        return scores

    def _check_size(self, count: int) -> None:
        if count > self.max_batch:
            raise wire.Refusal(413, f"{count} scores in one request; at most {self.max_batch}")

    def _check_model(self, model: str | None) -> None:
        if model is not None and model != self.name:
            raise wire.Refusal(400, f"this server has {self.name!r}, not {model!r}")


def _as_group(conversation: str | list[Message], number: int) -> Group:
    """Return a conversation as a group of one response, for a reward that reads groups only.

    What comes before the response is the prompt. Raises Refusal (400) where that cannot be done.
    """
    where = f"conversations.{number}"
    if isinstance(conversation, str):
        raise wire.Refusal(400, f"{where}: this reward scores messages, not whole texts")
    if len(conversation) < 2 or conversation[-1]["role"] != "assistant":
        raise wire.Refusal(400, f"{where}: a prompt and, last, the assistant's response are needed")
    answer = Completion(conversation[-1]["content"], message=conversation[-1])
    return Group(Prompt(f"conversation {number}", tuple(conversation[:-1])), (answer,), 0)


def _texts(group: Group) -> list[str]:
    return [one.text for one in group.completions]


def _size(content: str | Sequence[Message]) -> int:
    return len(content) if isinstance(content, str) else sum(len(m["content"]) for m in content)


def _check_length(*sizes: int) -> None:
    if max(sizes, default=0) > MAX_CHARS:
        raise wire.Refusal(413, f"a text has {max(sizes)} characters; at most {MAX_CHARS}")


def _numbers(values: Iterable[float | None], expected: int) -> list[float | None]:
    """Return scores as JSON numbers; NaN and None become None, which is missing.

    Raises RewardError for infinity, and unless there are `expected` scores.
    """
    numbers = [math.nan if value is None else float(value) for value in values]
    if len(numbers) != expected:
        raise RewardError(f"the reward gave {len(numbers)} scores for {expected}")
    if any(math.isinf(number) for number in numbers):
        raise RewardError("the reward gave an infinite score")
    return [None if math.isnan(number) else number for number in numbers]
