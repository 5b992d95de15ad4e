"""Turn conversations into token ids: format, BOS, EOS and truncation in one place.

Over-long texts are cut without losing what is being scored.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from rewards.encoding.bos import BOS_COUNT, check_bos, with_bos
from rewards.encoding.eos import EOS_COUNT, check_eos, with_eos, without_last_newline
from rewards.encoding.formats import Rendered, Scorable, check_format, render
from rewards.types import Bos, Eos, Format, RewardError, TruncationSide
from rollout.data.messages import checked_conversation
from rollout.text.chat import check_template_kwargs
from rollout.types import InputError, Message

__all__ = ["Encoder", "check_truncation"]

SIDES = ("left", "right")


def check_truncation(side: str, max_length: int | None, kept: int) -> None:
    """Check how conversations are truncated.

    Raises `InputError` for an unknown side, or where `max_length` has room for no more than the
    `kept` tokens, BOS and EOS.
    """
    if side not in SIDES:
        raise InputError(
            f"truncation_side={side!r}",
            "is unknown",
            f"use one of {', '.join(SIDES)}",
        )
    if max_length is not None and max_length <= kept:
        raise InputError(f"max_length={max_length}", "leaves no room for text", "use a larger one")


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
    eos: Eos = "none"
    max_length: int | None = None
    truncation_side: TruncationSide = "left"
    separator: str = ""
    chat_template_kwargs: Mapping[str, object] = field(default_factory=dict[str, object])
    truncated: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        check_format(self.format)
        check_bos(self.bos, self.tokenizer.bos_token_id)
        check_eos(self.eos, self.tokenizer.eos_token_id)
        check_truncation(self.truncation_side, self.max_length, self._front + self._back)
        if self.format == "chat" and not self.tokenizer.chat_template:
            raise InputError(
                'format="chat"', "the tokenizer has no chat template", 'use "hh_hash" or "plain"'
            )
        if self.chat_template_kwargs and self.format != "chat":
            raise InputError(
                "chat_template_kwargs", f'format="{self.format}" has no use for it', "leave it out"
            )
        if self.format == "chat":
            check_template_kwargs(self.tokenizer, self.chat_template_kwargs)
            self._check_template()

    def _check_template(self) -> None:
        """Check that the chat template writes the response: else all would have the same score.

        Raises `InputError` where it does not.
        """
        question = Message(role="user", content="a question")
        for answer in ("the first answer", "another one"):
            probe = [question, Message(role="assistant", content=answer)]
            if answer not in self.render(probe):
                raise InputError(
                    "the chat template",
                    "does not write the assistant's response",
                    'fix the tokenizer\'s template, or use format "hh_hash" or "plain"',
                )

    def describe(self) -> dict[str, object]:
        """Return the settings that the ids depend on, for a run's records."""
        return {
            "format": self.format,
            "separator": self.separator,
            "bos": self.bos,
            "eos": self.eos,
            "max_length": self.max_length,
            "truncation_side": self.truncation_side,
            # an empty one is not recorded, since records of earlier versions have no such key
            **(
                {"chat_template_kwargs": given}
                if (given := dict(self.chat_template_kwargs))
                else {}
            ),
        }

    def encode(self, conversations: Sequence[Scorable], names: Sequence[str]) -> list[list[int]]:
        """Return the ids of N conversations, each `max_length` at most. `names` are for messages.

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
        texts = [self._named_text(*pair) for pair in zip(conversations, names, strict=True)]
        if not texts:
            return []
        # special tokens are added below; the template's BOS is in the text already
        rows = self.tokenizer(
            texts, add_special_tokens=False, padding=False, truncation=False, verbose=False
        )["input_ids"]
        bos_id, eos_id = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return [with_eos(with_bos(ids, bos_id, self.bos), eos_id, self.eos) for ids in rows]

    def check(self, conversation: Scorable, *, length: bool) -> None:
        """Refuse a conversation that `encode` would refuse, before there is a model.

        Only with `length` is it tokenised, which takes as long as all else, to check its ids and
        that something of its response is left within `max_length`. Raises as `encode` does.
        """
        if not length:
            self._text(conversation)
            return
        (ids,) = self._tokens([conversation], ["the conversation"])
        self._fitted(ids, conversation, "the conversation")

    def _named_text(self, conversation: Scorable, name: str) -> str:
        try:
            return self._text(conversation)
        except InputError as error:
            raise InputError(name, error) from error

    def render(self, conversation: Scorable) -> str:
        """Return the text of a conversation. Raises `InputError` as `formats.render` does."""
        return render(
            conversation, self.format, self.tokenizer, self.separator, self.chat_template_kwargs
        )

    def _text(self, conversation: Scorable) -> str:
        text = self.render(conversation)
        by_template = self.format == "chat" or isinstance(conversation, Rendered)
        return without_last_newline(text) if self.eos == "single" and by_template else text

    @property
    def _front(self) -> int:
        """Number of tokens at the start that are never cut."""
        return BOS_COUNT[self.bos]

    @property
    def _back(self) -> int:
        return EOS_COUNT[self.eos]

    def cut(self, ids: Sequence[int]) -> list[int]:
        """Return `ids` (T,) cut to `max_length`; BOS always stays, and an EOS that was added."""
        length = self.max_length
        if length is None or len(ids) <= length:
            return list(ids)
        if self.truncation_side == "right":
            return [*ids[: length - self._back], *ids[len(ids) - self._back :]]
        return [*ids[: self._front], *ids[len(ids) - (length - self._front) :]]

    def keeps_response(self, ids: Sequence[int], without: Sequence[int]) -> bool:
        """Return whether at least one token of the response survives the cut to `max_length`.

        `without` is the same conversation with an empty response: what both have in common at the
        start is the prompt, at the end what the template puts after a response.
        """
        if self.max_length is None:
            return True
        if self.truncation_side == "right":
            return self.max_length - self._back > _common_prefix(ids, without)
        return self.max_length - self._front > _common_prefix(ids[::-1], without[::-1])

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
        return self.cut(ids), True

    def _check_response_left(self, ids: list[int], conversation: Scorable, name: str) -> None:
        if isinstance(conversation, str):
            return  # a whole text has no marked response
        *before, last = checked_conversation(conversation, name)
        empty = not last["content"] and "tool_calls" not in last
        if empty and self.truncation_side == "left":
            return  # an empty response cannot be lost by a cut on the left
        emptied = [*before, Message(role="assistant", content="")]
        (without,) = self._tokens([emptied], [name])
        if self.keeps_response(ids, without):
            return
        other = ' or truncation_side="left"' if self.truncation_side == "right" else ""
        raise RewardError(
            f"{name}: nothing of its response is left within max_length={self.max_length} "
            f"(the whole is {len(ids)} tokens): use a larger max_length{other}"
        )
