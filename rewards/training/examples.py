"""Make training examples from preference pairs, draw each step's examples, and batch them.

An `Example` holds the token ids of one text or of the two sides of a pair, as the model will read
them when it scores. A step's examples are a random draw that does not look at lengths, so that no
step is all short pairs. Within the step they are sorted by length and cut under a token budget.
Loss and gradient are sums over the step divided once by its weight, so that the cuts change only
the rounding.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from rewards.checkpoints.loading import make_encoder
from rewards.checkpoints.record import with_record
from rewards.checkpoints.settings import ModelSettings
from rewards.data.pair import Pair
from rewards.encoding.encoder import Encoder
from rewards.encoding.formats import Scorable
from rewards.training.layout import num_embeddings
from rewards.training.settings import Layout, ReadingSettings
from rollout.data.bad_rows import OnBadRow
from rollout.text.printable import one_line
from rollout.types import InputError, Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "SIDES",
    "Encoded",
    "Example",
    "check_some_left",
    "encode_pairs",
    "is_read",
    "micro_batches",
    "reading_encoder",
    "training_steps",
    "usable",
]


@dataclass(frozen=True, slots=True)
class Example:
    """One item of the training data.

    Args:
        rows: int32 ids (T,) of each text; of a pair, chosen and then rejected.
        id: the id of the pair that the example came from, for messages.
        loss_from: for language-model losses: per row the first token that has a loss.
        margin: by how much the chosen side should win.
    """

    rows: tuple[np.ndarray, ...]
    id: str = ""
    loss_from: tuple[int, ...] = ()
    margin: float = 0.0

    @property
    def tokens(self) -> int:
        """Return the number of tokens without padding; a shared beginning counts in each row."""
        return sum(len(row) for row in self.rows)

    @property
    def longest(self) -> int:
        return max(len(row) for row in self.rows)

    @property
    def packed(self) -> int:
        """Return the number of tokens when a pair's common beginning is computed once."""
        return self.tokens - shared_beginning(self.rows)


def shared_beginning(rows: tuple[np.ndarray, ...]) -> int:
    if len(rows) != 2:
        return 0
    size = min(map(len, rows))
    different = np.flatnonzero(rows[0][:size] != rows[1][:size])
    return int(different[0]) if len(different) else size


def training_steps(count: int, batch_size: int, epochs: float, seed: int) -> list[list[int]]:
    """Return the numbers of each step's examples: `epochs` permutations of `count`, end to end.

    Only the last step may be smaller. The steps follow from the arguments, so that a resumed run
    takes those that are left. Raises `InputError` when there is nothing to train on.
    """
    total = round(count * epochs)
    if not total:
        raise InputError(
            "epochs", f"{count} examples × epochs={epochs} is nothing to train on", "give more"
        )
    draw = [
        np.random.default_rng([seed, epoch]).permutation(count)
        for epoch in range(-(-total // count))
    ]
    order = np.concatenate(draw)[:total].tolist()
    return [order[start : start + batch_size] for start in range(0, total, batch_size)]


def micro_batches(examples: Sequence[Example], budget: int, layout: Layout) -> list[list[Example]]:
    """Cut examples into batches of at most `budget` tokens as `layout` counts them.

    A batch has at least one example. The longest come first, so that memory runs out in the first
    batch or never.
    """
    if layout == "packed":
        ordered = sorted(examples, key=lambda one: -one.packed)
        return _filled(ordered, lambda batch: sum(one.packed for one in batch), budget)
    ordered = sorted(examples, key=lambda one: -one.longest)
    return _filled(ordered, lambda batch: batch[0].longest * sum(map(_rows, batch)), budget)


def _rows(example: Example) -> int:
    return len(example.rows)


def _filled(
    ordered: Sequence[Example], cost: Callable[[list[Example]], int], budget: int
) -> list[list[Example]]:
    batches: list[list[Example]] = []
    for one in ordered:
        if batches and cost([*batches[-1], one]) <= budget:
            batches[-1].append(one)
        else:
            batches.append([one])
    return batches


log = logging.getLogger("rewards")

SIDES = ("chosen", "rejected")
_CHUNK = 1000  # pairs tokenised at a time


@dataclass(frozen=True)
class Encoded:
    """Examples in the order of their pairs, and what became of the others.

    `dropped`: reason -> number of pairs skipped for it; `cut`: number of pairs that were shortened
    to `max_length`.
    """

    examples: list[Example]
    dropped: dict[str, int]
    cut: int


def reading_encoder(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, settings: ReadingSettings, name: str
) -> Encoder:
    """Return the encoder that `load_reward` would make, for the model that is being trained.

    Raises `InputError` when the settings do not fit the tokenizer.
    """
    if settings.chat_template is not None:
        tokenizer.chat_template = settings.chat_template
    wanted = ModelSettings(
        format=settings.format,
        bos=settings.bos,
        eos=settings.eos,
        max_length=settings.max_length,
        truncation_side=settings.truncation_side,
        separator=settings.separator,
        chat_template_kwargs=settings.chat_template_kwargs,
    )
    if settings.chat_template is None:  # else its record, from training here, no longer fits
        side, separator = settings.truncation_side, settings.separator
        wanted = with_record(Path(name), wanted, side=side, separator=separator)
    vocabulary = num_embeddings(model)
    return make_encoder(tokenizer, model.config, wanted, name=name, vocabulary=vocabulary)


def encode_pairs(
    pairs: Sequence[Pair],
    encoder: Encoder,
    over_long: Literal["cut", "drop"] = "cut",
    *,
    what: str = "training",
    on_bad_row: OnBadRow = "stop",
) -> Encoded:
    """Return at most N examples, of two rows each, of N pairs.

    Skipped, and counted: pairs whose sides read the same, that have an empty side, or that are
    longer than the encoder's `max_length` and must not be cut or would lose a response to it; with
    `on_bad_row` "skip", pairs that the chat template refuses.

    Raises `InputError` when nothing is left, saying what became of the pairs.
    """
    dropped: Counter[str] = Counter()
    examples: list[Example] = []
    reader = _Reader(encoder, over_long, dropped, skips=on_bad_row == "skip")
    for start in range(0, len(pairs), _CHUNK):
        examples += reader.read(pairs[start : start + _CHUNK])
    check_some_left(examples, pairs, dropped, what)
    if reader.cuts:
        log.info("%d of %d %s pairs were cut", reader.cuts, len(pairs), what)
    return Encoded(examples, dict(dropped), reader.cuts)


def usable(pair: Pair, dropped: Counter[str]) -> bool:
    """Return whether the sides differ and neither is empty; count the pair if not."""
    said = [pair.conversation(side)[-1] for side in SIDES]
    if not all(one["content"].strip() or "tool_calls" in one for one in said):
        dropped["with an empty side"] += 1
        return False
    if said[0] == said[1]:
        dropped["with two identical sides"] += 1
        return False
    return True


def is_read(encoder: Encoder, conversations: Iterable[Scorable], dropped: Counter[str]) -> bool:
    """Return whether the chat template accepts all `conversations`; count the refusal if not."""
    try:
        for one in conversations:
            encoder.check(one, length=False)
    except InputError as error:
        dropped[f"that {one_line(error.where)} {one_line(error.problem)}"] += 1
        return False
    return True


def check_some_left(
    examples: Sequence[Example], pairs: Sequence[Pair], dropped: Counter[str], what: str
) -> None:
    """Log how many pairs were skipped, and why. Raises `InputError` where all were."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
    if not examples:
        problem = f"no {what} pairs are left of {len(pairs)}"
        if not dropped:
            raise InputError("pairs", problem)
        raise InputError(
            "pairs", f"{problem}: {reasons}", "fix the rows, or use a larger max_length"
        )
    if dropped:
        log.warning(
            "%d of %d %s pairs are left out: %s",
            sum(dropped.values()), len(pairs), what, reasons,
        )  # fmt: skip


class _Reader:
    def __init__(
        self, encoder: Encoder, over_long: str, dropped: Counter[str], *, skips: bool
    ) -> None:
        self._skips = skips
        self.limit = encoder.max_length
        self.encoder, self.over_long, self.dropped = encoder, over_long, dropped
        self.whole = replace(encoder, max_length=None)
        self.cuts = 0

    def read(self, pairs: Sequence[Pair]) -> list[Example]:
        kept = [pair for pair in pairs if usable(pair, self.dropped)]
        if self._skips:
            kept = [
                pair
                for pair in kept
                if is_read(self.encoder, map(pair.conversation, SIDES), self.dropped)
            ]
        sides = [self._ids(kept, side) for side in SIDES]
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
            rows = [self.encoder.cut(row) for row in rows]
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
        if all(self.encoder.keeps_response(row, without) for row in rows):
            return None
        return f"of which {limit} tokens keep no response"
