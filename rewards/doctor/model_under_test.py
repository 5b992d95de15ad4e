"""The reward model under examination, queried without changing its own counters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rewards.checkpoints.checkpoint import read_config
from rewards.checkpoints.published import find_published
from rewards.encoding.encoder import Encoder
from rewards.encoding.formats import Turns
from rewards.inference.engine import Engine
from rewards.models.reward import ModelReward
from rewards.types import RewardError
from rollout.data.jsonl import is_object
from rollout.types import InputError

__all__ = ["ModelUnderTest", "Readable"]


@dataclass(frozen=True, slots=True)
class Readable:
    """Which of N conversations the model can read: those at the indices `kept`.

    `cut` of these are truncated; `reasons` says of each of the others why it cannot be read.
    """

    kept: list[int]
    cut: int
    reasons: list[str]


@dataclass(frozen=True)
class ModelUnderTest:
    """A loaded `reward`, the `folder` with its files, and the `name` that the user called it."""

    reward: ModelReward
    folder: Path
    name: str

    @property
    def encoder(self) -> Encoder:
        return self.reward.encoder

    @property
    def tokenizer(self) -> Any:
        return self.reward.encoder.tokenizer

    @property
    def engine(self) -> Engine:
        return self.reward.engine

    @property
    def config(self) -> dict[str, Any]:
        """`config.json`, with the keys of its `text_config` on top where it has that section."""
        config = read_config(self.folder)
        text = config.get("text_config")
        return {**config, **(text if is_object(text) else {})}

    @property
    def published(self) -> str | None:
        """Name of the published model that this is a copy of; None where it is of none."""
        found = find_published(self.name) or find_published(self.folder)
        return None if found is None else found[0]

    def text(self, conversation: Turns) -> str:
        return self.encoder.render(conversation)

    def with_other_end(self, conversation: Turns) -> ModelUnderTest | None:
        """Return the same model with the other setting of `eos`: an EOS behind each conversation
        where this one has none, and none where it has one.

        Return None where that makes no difference to `conversation`, or there is no EOS token.
        """
        if self.tokenizer.eos_token_id is None:
            return None
        reward = self.reward
        encoder = replace(self.encoder, eos="none" if self.encoder.eos == "single" else "single")
        other = replace(
            self,
            reward=ModelReward(
                encoder, reward.engine, name=reward.name, kind=reward.kind, non_finite="missing"
            ),
        )
        return None if other.ids(conversation) == self.ids(conversation) else other

    def ids(self, conversation: Turns) -> list[int]:
        with self._uncounted():
            return self.encoder.encode([conversation], ["a built-in conversation"])[0]

    def readable(
        self, conversations: Sequence[Turns], names: Sequence[str] | None = None
    ) -> Readable:
        """Tell which conversations fit the format and keep some of their response when truncated.

        `names` are what the reasons call the conversations.
        """
        kept, reasons, cut = [], [], 0
        names = names or [f"conversation {index + 1}" for index in range(len(conversations))]
        for index, (conversation, name) in enumerate(zip(conversations, names, strict=True)):
            with self._uncounted() as before:
                try:
                    self._positions(conversation, name)
                except (InputError, RewardError) as error:
                    reasons.append(str(error))
                    continue
                cut += self.encoder.truncated - before
            kept.append(index)
        return Readable(kept, cut, reasons)

    def score(self, conversations: Sequence[Turns]) -> np.ndarray:
        """Return scores (N,), float32; NaN where a score is missing."""
        with self._uncounted():
            return self.reward.score(conversations)

    def _positions(self, conversation: Turns, name: str) -> None:
        """Check a conversation without running the model.

        Raises `InputError` or `RewardError` where `score` would before the model is run.
        """
        (ids,) = self.encoder.encode([conversation], [name])
        head = getattr(self.engine, "head", None)
        if head is not None:
            head.positions(ids, name)

    @contextlib.contextmanager
    def _uncounted(self) -> Iterator[int]:
        # the model's own count of truncated conversations is not about our samples
        before = self.encoder.truncated
        try:
            yield before
        finally:
            self.encoder.truncated = before
