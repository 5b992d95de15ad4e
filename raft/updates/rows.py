"""Selected samples as token-id training rows: exactly the tokens that were drawn, nothing added."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

from raft.select_rows import read_selected
from rollout.seeds import derive_seed
from rollout.types import InputError

IGNORED = -100  # the label that torch's cross entropy leaves out


class TrainingRow(TypedDict):
    """One text as token ids; `labels` are the ids to learn, `IGNORED` for all others."""

    input_ids: list[int]
    labels: list[int]


def sft_rows(
    path: str | Path, loss_on: str, max_length: int | None = None
) -> Iterator[TrainingRow]:
    """`input_ids` and `labels` of every selected row.

    A sample that was cut at the length limit gets no end-of-text token: that would teach the policy
    to stop in mid-sentence. One that ended has its own among its ids.

    Raises:
        InputError: a row is longer than `max_length` (it is never cut in silence).
    """
    for row in read_selected(Path(path)):
        prompt, response = row.prompt_token_ids, row.token_ids
        ids = [*prompt, *response]
        if max_length is not None and len(ids) > max_length:
            raise InputError(
                "train.max_length",
                f"{row.id} has {len(ids)} tokens, more than {max_length}",
                "raise it or lower prompts.max_tokens and sampling.max_new_tokens",
            )
        hidden = [IGNORED] * len(prompt) if loss_on == "response" else prompt
        yield {"input_ids": ids, "labels": [*hidden, *response]}


def concatenate_and_cut(rows: Sequence[TrainingRow], length: int) -> list[TrainingRow]:
    """LMFlow's packing: all rows in a row, cut into blocks of `length`; the rest is dropped.

    Fewer tokens than one block are kept as they are.
    """
    ids = [token for row in rows for token in row["input_ids"]]
    labels = [label for row in rows for label in row["labels"]]
    whole = len(ids) // length * length or len(ids)
    return [
        {"input_ids": ids[i : i + length], "labels": labels[i : i + length]}
        for i in range(0, whole, length)
    ]


def training_order(rows: int, batch_size: int, epochs: float, seed: int) -> list[int]:
    """Row numbers in the order of training: a permutation per epoch, in whole batches.

    Each epoch is filled up with the number `rows`, which stands for a row without any loss. So an
    optimizer step sees the same rows however many trainers and micro-batches share it.

    >>> sorted(training_order(3, 2, 1, seed=0))
    [0, 1, 2, 3]
    """
    per_epoch = math.ceil(rows / batch_size)
    order: list[int] = []
    for epoch in range(math.ceil(epochs)):
        permutation = list(range(rows))
        random.Random(derive_seed(seed, "epoch", epoch)).shuffle(permutation)
        order += permutation + [rows] * (per_epoch * batch_size - rows)
    return order[: math.ceil(epochs * per_epoch) * batch_size]
