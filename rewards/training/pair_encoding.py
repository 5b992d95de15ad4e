"""From preference pairs to examples: the ids that the model will read when it scores."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from rewards.bos import BOS_COUNT
from rewards.encoding import Encoder
from rewards.pairs import Pair
from rewards.parts import make_encoder
from rewards.settings import ModelSettings
from rewards.training.example import Example
from rewards.training.settings import ReadingSettings
from rewards.truncation import cut, keeps_response
from rollout.types import InputError, Message

__all__ = ["Encoded", "check_some_left", "encode_pairs", "reading_encoder", "usable"]

log = logging.getLogger("rewards")

_CHUNK = 1000  # pairs tokenised at a time


@dataclass(frozen=True)
class Encoded:
    """Examples in the order of their pairs, and why the others are not there: reason -> count."""

    examples: list[Example]
    dropped: dict[str, int]
    cut: int


def reading_encoder(tokenizer: Any, model: Any, settings: ReadingSettings, name: str) -> Encoder:
    """The encoder that `load_reward` would make, for the model that is being trained.

    Raises `InputError` when the settings do not fit the tokenizer.
    """
    if settings.chat_template is not None:
        tokenizer.chat_template = settings.chat_template
    wanted = ModelSettings(
        format=settings.format,
        bos=settings.bos,
        max_length=settings.max_length,
        truncation_side=settings.truncation_side,
        separator=settings.separator,
    )
    vocabulary = model.get_input_embeddings().num_embeddings
    return make_encoder(tokenizer, model.config, wanted, name=name, vocabulary=vocabulary)


def encode_pairs(
    pairs: Sequence[Pair],
    encoder: Encoder,
    over_long: Literal["cut", "drop"] = "cut",
    *,
    what: str = "training",
) -> Encoded:
    """N pairs to at most N examples of two rows each.

    Left out, and counted: pairs whose sides read the same, that have an empty side, or that are
    longer than the encoder's `max_length` and must not be cut or would lose a response to it.

    Raises `InputError` when nothing is left, saying what became of the pairs.
    """
    dropped: Counter[str] = Counter()
    examples: list[Example] = []
    reader = _Reader(encoder, over_long, dropped)
    for start in range(0, len(pairs), _CHUNK):
        examples += reader.read(pairs[start : start + _CHUNK])
    check_some_left(examples, pairs, dropped, what)
    if reader.cuts:
        log.info("%d of %d %s pairs were cut", reader.cuts, len(pairs), what)
    return Encoded(examples, dict(dropped), reader.cuts)


def usable(pair: Pair, dropped: Counter[str]) -> bool:
    """Whether the sides are two and there; else it is counted."""
    if not (pair.chosen.strip() and pair.rejected.strip()):
        dropped["with an empty side"] += 1
        return False
    if pair.chosen == pair.rejected:
        dropped["with two identical sides"] += 1
        return False
    return True


def check_some_left(
    examples: Sequence[Example], pairs: Sequence[Pair], dropped: Counter[str], what: str
) -> None:
    """Say what was left out. Raises `InputError` when that was everything."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
    if not examples:
        mend = f": {reasons}; mend the rows, or use a larger max_length" if dropped else ""
        raise InputError(f"no {what} pairs are left of {len(pairs)}{mend}")
    if dropped:
        log.warning(
            "%d of %d %s pairs are left out: %s",
            sum(dropped.values()), len(pairs), what, reasons,
        )  # fmt: skip


class _Reader:
    def __init__(self, encoder: Encoder, over_long: str, dropped: Counter[str]) -> None:
        self.limit = encoder.max_length
        self.encoder, self.over_long, self.dropped = encoder, over_long, dropped
        self.whole = replace(encoder, max_length=None)
        self.cuts = 0

    def read(self, pairs: Sequence[Pair]) -> list[Example]:
        kept = [pair for pair in pairs if usable(pair, self.dropped)]
        sides = [self._ids(kept, side) for side in ("chosen", "rejected")]
        found = map(self._example, kept, *sides)
        return [example for example in found if example is not None]

    def _ids(self, pairs: Sequence[Pair], side: str) -> list[list[int]]:
        names = [f"pair {pair.id!r} ({side})" for pair in pairs]
        return self.whole.encode([pair.conversation(side) for pair in pairs], names)

    def _example(self, pair: Pair, chosen: list[int], rejected: list[int]) -> Example | None:
        rows, limit = [chosen, rejected], self.limit
        if limit is not None and max(map(len, rows)) > limit:
            reason = self._why_not_cut(pair, rows, limit)
            if reason is not None:
                self.dropped[reason] += 1
                return None
            front = BOS_COUNT[self.encoder.bos]
            rows = [cut(row, limit, self.encoder.truncation_side, front) for row in rows]
            self.cuts += 1
        if rows[0] == rows[1]:
            self.dropped["whose sides read the same"] += 1
            return None
        arrays = tuple(np.asarray(row, dtype=np.int32) for row in rows)
        return Example(arrays, id=pair.id, margin=pair.margin or 0.0)

    def _why_not_cut(self, pair: Pair, rows: list[list[int]], limit: int) -> str | None:
        if self.over_long == "drop":
            return f"longer than {limit} tokens"
        emptied = [*pair.prompt, Message(role="assistant", content="")]
        (without,) = self.whole.encode([emptied], [f"pair {pair.id!r}"])
        front, side = BOS_COUNT[self.encoder.bos], self.encoder.truncation_side
        if all(keeps_response(row, without, limit, side, front) for row in rows):
            return None
        return f"of which {limit} tokens keep no response"
