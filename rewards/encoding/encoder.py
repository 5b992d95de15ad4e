"""Turn conversations into token ids: format, BOS policy and truncation in one place.

Over-long texts are cut without losing what is being scored.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from rewards.encoding.bos import BOS_COUNT, check_bos, with_bos
from rewards.encoding.formats import Scorable, check_format, render
from rewards.types import Bos, Format, RewardError, TruncationSide
from rollout.types import InputError, Message

__all__ = [
    "Encoder",
    "check_truncation",
    "cut",
    "keeps_response",
]

SIDES = ("left", "right")


def check_truncation(side: str, max_length: int | None, front: int) -> None:
    """Raises `InputError` for an unknown side, or a length that leaves no room after the BOS."""
    if side not in SIDES:
        raise InputError(
            f"truncation_side={side!r}",
            "is unknown",
            f"use one of {', '.join(SIDES)}",
        )
    if max_length is not None and max_length <= front:
        raise InputError(f"max_length={max_length}", "leaves no room for text", "use a larger one")


def cut(ids: Sequence[int], max_length: int, side: TruncationSide, front: int) -> list[int]:
    """`ids` (T,) at most `max_length` long. The first `front` tokens (BOS) always stay."""
    if len(ids) <= max_length:
        return list(ids)
    if side == "right":
        return list(ids[:max_length])
    return [*ids[:front], *ids[len(ids) - (max_length - front) :]]


def keeps_response(
    ids: Sequence[int], without: Sequence[int], max_length: int, side: TruncationSide, front: int
) -> bool:
    """Does at least one token of the response survive the cut?

    `without` is the same conversation with an empty response: what both have in common at the
    start is the prompt, at the end what the template puts after a response.
    """
    if side == "right":
        return max_length > _common_prefix(ids, without)
    return max_length - front > _common_prefix(ids[::-1], without[::-1])


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False))
    return sum(1 for _ in same)


log = logging.getLogger("rewards")


@dataclass
class Encoder:
    """How one reward model reads conversations.

    `truncated` counts the conversations that were cut so far. `vocabulary` is the number of rows
    of the model's embedding. Raises `InputError` when the settings do not fit the tokenizer.
    """

    tokenizer: Any
    format: Format
    bos: Bos
    vocabulary: int
    max_length: int | None = None
    truncation_side: TruncationSide = "left"
    separator: str = ""
    truncated: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        check_format(self.format)
        check_bos(self.bos, self.tokenizer.bos_token_id)
        check_truncation(self.truncation_side, self.max_length, BOS_COUNT[self.bos])
        if self.format == "chat" and not self.tokenizer.chat_template:
            raise InputError(
                'format="chat"', "the tokenizer has no chat template", 'use "hh_hash" or "plain"'
            )
        if self.format == "chat":
            self._check_template()

    def _check_template(self) -> None:
        """A template that leaves the response out would give every response the same score."""
        question = Message(role="user", content="a question")
        for answer in ("the first answer", "another one"):
            probe = [question, Message(role="assistant", content=answer)]
            if answer not in render(probe, self.format, self.tokenizer):
                raise InputError(
                    "the chat template",
                    "does not write the assistant's response",
                    'fix the tokenizer\'s template, or use format "hh_hash" or "plain"',
                )

    def describe(self) -> dict[str, object]:
        """The settings that the ids depend on, for a run's records."""
        return {
            "format": self.format,
            "separator": self.separator,
            "bos": self.bos,
            "max_length": self.max_length,
            "truncation_side": self.truncation_side,
        }

    def encode(self, conversations: Sequence[Scorable], names: Sequence[str]) -> list[list[int]]:
        """N conversations to N lists of ids, `max_length` at most. `names` are for messages.

        Raises `InputError` when a conversation does not fit the format, and `RewardError` when
        nothing of its response would be left, or it has ids that the model does not know.
        """
        rows = [
            self._fitted(ids, conversation, name)
            for ids, conversation, name in zip(
                self._tokens(conversations, names), conversations, names, strict=True
            )
        ]
        cuts = sum(cut_ for _, cut_ in rows)
        if cuts:
            self.truncated += cuts
            log.warning(
                "%d of %d conversations were cut to max_length=%s (%s side)",
                cuts, len(rows), self.max_length, self.truncation_side,
            )  # fmt: skip
        return [ids for ids, _ in rows]

    def _tokens(self, conversations: Sequence[Scorable], names: Sequence[str]) -> list[list[int]]:
        texts = [self._text(*pair) for pair in zip(conversations, names, strict=True)]
        if not texts:
            return []
        # special tokens are ours to add: the template's BOS is in the text already
        rows = self.tokenizer(
            texts, add_special_tokens=False, padding=False, truncation=False, verbose=False
        )["input_ids"]
        return [with_bos(ids, self.tokenizer.bos_token_id, self.bos) for ids in rows]

    def _text(self, conversation: Scorable, name: str) -> str:
        try:
            return render(conversation, self.format, self.tokenizer, self.separator)
        except InputError as error:
            raise InputError(name, error) from error

    def _fitted(self, ids: list[int], conversation: Scorable, name: str) -> tuple[list[int], bool]:
        if not ids:
            raise RewardError(f"{name} has no tokens: there is nothing to score")
        if max(ids) >= self.vocabulary:
            raise RewardError(
                f"{name} has token id {max(ids)}, but the model knows {self.vocabulary} tokens: "
                "tokenizer and model do not belong together"
            )
        if self.max_length is None or len(ids) <= self.max_length:
            return ids, False
        self._check_response_left(ids, conversation, name)
        front = BOS_COUNT[self.bos]
        return cut(ids, self.max_length, self.truncation_side, front), True

    def _check_response_left(self, ids: list[int], conversation: Scorable, name: str) -> None:
        if isinstance(conversation, str):
            return  # a whole text has no marked response
        if not conversation[-1]["content"] and self.truncation_side == "left":
            return  # an empty one cannot be lost on the left
        emptied: list[Any] = [*conversation[:-1], Message(role="assistant", content="")]
        (without,) = self._tokens([emptied], [name])
        front, length = BOS_COUNT[self.bos], self.max_length or len(ids)
        if keeps_response(ids, without, length, self.truncation_side, front):
            return
        other = ' or truncation_side="left"' if self.truncation_side == "right" else ""
        raise RewardError(
            f"{name}: nothing of its response is left within max_length={length} "
            f"(the whole is {len(ids)} tokens): use a larger max_length{other}"
        )
