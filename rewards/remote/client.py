"""Ask a reward model (`RemoteReward`) or a pairwise judge (`RemoteJudge`) behind a URL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from rewards.encoding.formats import Scorable, name_conversations
from rewards.remote.address import make_address
from rewards.remote.protocols import (
    Item,
    OpenRLHF,
    RaftComparisons,
    RaftConversations,
    RaftGroups,
    ScoreProtocol,
    batched,
    check_positive,
)
from rewards.remote.texts import Texts
from rewards.remote.transport import Transport
from rewards.remote.vllm_protocol import VLLM, RawCheck
from rewards.types import (
    Bos,
    Comparison,
    Eos,
    Format,
    NonFinite,
    RewardError,
    Scores,
    TruncationSide,
    check_non_finite,
    finite_or_missing,
)
from rollout.types import Group, InputError, conversation

__all__ = [
    "PROTOCOLS",
    "ProtocolName",
    "RemoteJudge",
    "RemoteReward",
]

ProtocolName = Literal["raft", "openrlhf", "vllm-classify", "vllm-pooling"]
PROTOCOLS = ("raft", "openrlhf", "vllm-classify", "vllm-pooling")


class RemoteReward:
    """A reward that scores conversations by asking a server.

    Args:
        url: of the server; without a path it gets the protocol's route, with one it is final.
        protocol: "raft" sends messages, "vllm-*" token ids or text, "openrlhf" text.
        model: the name that vLLM or our server is to answer as; another's answer is refused.
        token, token_env: a bearer token, or the environment variable that holds it.
        timeout: seconds per request as a whole.
        concurrency: how many requests may be under way at once.
        batch_size: scores per request; a group is never cut, so a larger group is sent alone.
        retries, backoff: tries after the first, and seconds before the second; see `Transport`.
        tokenizer, format, bos, eos, separator, max_length, truncation_side: how conversations
            become text or token ids; see `Texts`. Not for "raft", whose server decides them. With
            "openrlhf" the server truncates, so `max_length` and `truncation_side` must be unset.
        columns: with "raft", the prompt columns that are sent; None sends all.
        label_column: with "openrlhf", the prompt column sent as `labels`.
        assume_raw: skip the check that vLLM's numbers are logits and not probabilities.
        non_finite: "raise", or "missing" to count NaN and infinity as missing scores.

    Raises `InputError` for settings that are wrong or do not belong to the protocol.
    """

    def __init__(
        self,
        url: str,
        *,
        protocol: ProtocolName = "raft",
        model: str | None = None,
        token: str | None = None,
        token_env: str | None = None,
        timeout: float = 60.0,
        concurrency: int = 4,
        batch_size: int = 32,
        retries: int = 4,
        backoff: float = 0.5,
        tokenizer: Any = None,
        format: Format | None = None,
        bos: Bos | None = None,
        eos: Eos | None = None,
        separator: str = "",
        max_length: int | None = None,
        truncation_side: TruncationSide | None = None,
        columns: Sequence[str] | None = None,
        label_column: str | None = None,
        assume_raw: bool = False,
        non_finite: NonFinite = "raise",
    ) -> None:
        check_non_finite(non_finite)
        check_positive(batch_size=batch_size)
        self._check_protocol(protocol, columns, label_column, assume_raw)
        self.texts: Texts | None = None
        if protocol == "raft":
            _check_unset(protocol, tokenizer=tokenizer, format=format, bos=bos, eos=eos,
                         separator=separator or None, max_length=max_length,
                         truncation_side=truncation_side)  # fmt: skip
        else:
            if protocol == "openrlhf":
                # its server cuts (serve_rm's --max_len), and names no model
                _check_unset(protocol, max_length=max_length, truncation_side=truncation_side,
                             model=model)  # fmt: skip
            self.texts = Texts(
                tokenizer, format=format, bos=bos, eos=eos, separator=separator,
                max_length=max_length, truncation_side=truncation_side,
            )  # fmt: skip
        self.protocol: ProtocolName = protocol
        self.model = model
        self.batch_size = batch_size
        self.label_column = label_column
        self.non_finite: NonFinite = non_finite
        self._protocol = _protocol(protocol, self.texts, model)
        self._groups = RaftGroups(model, columns)
        self._raw = RawCheck() if protocol.startswith("vllm") and not assume_raw else None
        address = make_address(url, self._protocol.route, token=token, token_env=token_env)
        self.url = address.url
        self.name = model or self.url
        self._transport = Transport(
            address, timeout=timeout, concurrency=concurrency, retries=retries, backoff=backoff
        )

    def score(self, conversations: Sequence[Scorable]) -> np.ndarray:
        """Score N conversations, or whole texts: float32 scores (N,), order kept; NaN is missing.

        Raises `RewardError` when the server cannot be reached, refuses, or answers anything but N
        numbers; also for a number that is not finite in float32, unless `non_finite="missing"`.
        Raises `InputError` for a conversation that cannot be sent.
        """
        names = name_conversations(conversations)
        items = self._protocol.items(conversations, names, [None] * len(names))
        scores = self._checked([_float32(one) for one in self._ask(items)], items)
        return np.array([math.nan if one is None else one for one in scores], dtype=np.float32)

    def score_groups(self, groups: Sequence[Group]) -> Scores:
        """Return one list of K scores per group, order kept; None is missing.

        Raises as `score` does, naming the prompt.
        """
        if self.protocol == "raft":
            items = self._groups.items(groups)
            batches = batched(items, self.batch_size)
            values = self._transport.exchange(batches, self._groups.encode, self._groups.decode)
        else:
            items = self._conversations(groups)
            values = self._ask(items)
        flat = iter(self._checked(values, items))
        return [[next(flat) for _ in group.completions] for group in groups]

    def describe(self) -> dict[str, object]:
        """Return the settings that a score depends on, for a run's records; never the token."""
        sends_ids = isinstance(self._protocol, VLLM)
        return {
            "name": self.name,
            "kind": "remote",
            "protocol": self.protocol,
            "url": self.url,
            "model": self.model,
            **(self.texts.describe(ids=sends_ids) if self.texts else {}),
        }

    def _conversations(self, groups: Sequence[Group]) -> list[Item]:
        samples = [(group.prompt, one) for group in groups for one in group.completions]
        label = self.label_column
        return self._protocol.items(
            [conversation(prompt, one) for prompt, one in samples],
            [f"prompt {prompt.id!r}" for prompt, _ in samples],
            [prompt.fields.get(label) if label else None for prompt, _ in samples],
        )

    def _ask(self, items: Sequence[Item]) -> list[float | None]:
        ask = self._protocol
        values = self._transport.exchange(batched(items, self.batch_size), ask.encode, ask.decode)
        doubtful = self._raw.doubtful(values) if self._raw else None
        if doubtful is not None:
            self._ask_again(items[doubtful], values[doubtful] or 0.0)
        return values

    def _ask_again(self, item: Item, value: float) -> None:
        assert isinstance(self._protocol, VLLM) and self._raw is not None
        ask = self._protocol.activated()
        (activated,) = self._transport.exchange([[item]], ask.encode, ask.decode)
        try:
            self._raw.settle(value, activated)
        except RewardError as error:
            raise RewardError(f"reward server {self.url}: {error} (for {item.name})") from error

    def _checked(self, values: Sequence[float | None], items: Sequence[Item]) -> list[float | None]:
        names = [item.name for item in items for _ in range(item.count)]
        source = f"reward server {self.url}"
        return [
            None
            if value is None
            else finite_or_missing(value, source=source, where=name, non_finite=self.non_finite)
            for value, name in zip(values, names, strict=True)
        ]

    @staticmethod
    def _check_protocol(
        protocol: str, columns: object, label_column: object, assume_raw: bool
    ) -> None:
        if protocol not in PROTOCOLS:
            raise InputError(
                f"protocol={protocol!r}",
                "is unknown",
                f"use one of {', '.join(PROTOCOLS)}",
            )
        if protocol != "raft":
            _check_unset(protocol, columns=columns)
        if protocol != "openrlhf":
            _check_unset(protocol, label_column=label_column)
        if not protocol.startswith("vllm"):
            _check_unset(protocol, assume_raw=assume_raw or None)


def _protocol(name: ProtocolName, texts: Texts | None, model: str | None) -> ScoreProtocol:
    if texts is None:
        return RaftConversations(model)
    if name == "openrlhf":
        return OpenRLHF(texts)
    return VLLM("/" + name.removeprefix("vllm-"), texts, model)


def _check_unset(protocol: str, **settings: object) -> None:
    for name, value in settings.items():
        if value is not None:
            raise InputError(f"protocol={protocol!r}", f"has no use for {name}", "remove it")


def _float32(value: float | None) -> float | None:
    """Round a score to float32, so that an overflow is found as infinity before it is returned."""
    if value is None:
        return None
    with np.errstate(over="ignore"):
        return float(np.float32(value))


class RemoteJudge:
    """A judge that compares pairs of responses by asking a server; settings as in `RemoteReward`.

    Responses are not swapped here: averaging over both orders is left to the server's judge. Raises
    `InputError` for settings that are wrong.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        token: str | None = None,
        token_env: str | None = None,
        timeout: float = 60.0,
        concurrency: int = 4,
        batch_size: int = 32,
        retries: int = 4,
        backoff: float = 0.5,
        non_finite: NonFinite = "raise",
    ) -> None:
        check_non_finite(non_finite)
        check_positive(batch_size=batch_size)
        self._protocol = RaftComparisons(model)
        address = make_address(url, self._protocol.route, token=token, token_env=token_env)
        self.url = address.url
        self.model = model
        self.name = model or self.url
        self.batch_size = batch_size
        self.non_finite: NonFinite = non_finite
        self._transport = Transport(
            address, timeout=timeout, concurrency=concurrency, retries=retries, backoff=backoff
        )

    def compare(self, comparisons: Sequence[Comparison]) -> np.ndarray:
        """Return P(first is better) of N comparisons, float64 (N,), order kept.

        Raises `RewardError` as `RemoteReward.score` does, and for a number outside [0, 1] or a
        missing verdict; with `non_finite="missing"` a missing verdict is NaN.
        """
        items = self._protocol.items(comparisons)
        batches = batched(items, self.batch_size)
        values = self._transport.exchange(batches, self._protocol.encode, self._protocol.decode)
        checked = [self._checked(*pair) for pair in zip(values, items, strict=True)]
        return np.array(checked, dtype=np.float64)

    def describe(self) -> dict[str, object]:
        """Return the settings that a verdict depends on, for a run's records; never the token."""
        return {"name": self.name, "kind": "remote-judge", "url": self.url, "model": self.model}

    def _checked(self, value: float | None, item: Item) -> float:
        source = f"judge server {self.url}"
        found = finite_or_missing(
            math.nan if value is None else value,
            source=source,
            where=item.name,
            non_finite=self.non_finite,
        )
        if found is not None and not 0 <= found <= 1:
            raise RewardError(f"{source} gave {found} for {item.name}: it is no probability")
        return math.nan if found is None else found
