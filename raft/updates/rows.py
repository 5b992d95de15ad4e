"""Selected samples as token-id training rows: exactly the tokens that were drawn, nothing added."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict, cast

from raft.selection.rows import read_selected
from rollout.seeds import derive_seed
from rollout.types import InputError

if TYPE_CHECKING:
    from datasets import Dataset

    from raft.config.train import TrainConfig

IGNORED = -100  # the label that torch's cross entropy ignores
MIXED = "mixed.jsonl"  # beside selected.jsonl: rows of `train.mix`, in its form


class TrainingRow(TypedDict):
    """One text as T token ids; `labels` are the ids to learn, `IGNORED` for all others.

    `weight` is how much the row counts. The log-probabilities (T − 1 each) are by the policy that
    drew and by the starting one, NaN in a row that no policy drew. In the data set of an update,
    all rows have those of the optional keys that the update needs.
    """

    input_ids: list[int]
    labels: list[int]
    weight: NotRequired[float]
    drawn_log_probs: NotRequired[list[float]]
    start_log_probs: NotRequired[list[float]]


class PairRow(TypedDict):
    """A prompt and two responses, as TRL's DPO has them: the first is preferred."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


def sft_rows(
    path: str | Path, loss_on: str, max_length: int | None = None
) -> Iterator[TrainingRow]:
    """Yield `input_ids` and `labels` of every selected row, and its `weight` where one is stored.

    Rows of weight 0, from which nothing is to be learned, are skipped.
    A sample that was cut at the length limit gets no end-of-text token: that would teach the policy
    to stop in mid-sentence. A sample that ended has its end-of-text token among its ids.

    Raises:
        InputError: a row is longer than `max_length` (it is never cut in silence).
    """
    for row in read_selected(Path(path)):
        if row.weight == 0:
            continue
        prompt, response = row.prompt_token_ids, row.token_ids
        ids = [*prompt, *response]
        _check_length(row.id, len(ids), max_length)
        hidden = [IGNORED] * len(prompt) if loss_on == "response" else prompt
        found: TrainingRow = {"input_ids": ids, "labels": [*hidden, *response]}
        yield found if row.weight is None else {**found, "weight": row.weight}


def pair_rows(path: str | Path, max_length: int | None = None) -> Iterator[PairRow]:
    """Yield the selected and the rejected response of every selected row, as they were drawn.

    Raises:
        InputError: a side is longer than `max_length`, or a row has no rejected response.
    """
    for row in read_selected(Path(path)):
        prompt, worse = row.prompt_token_ids, row.rejected
        if worse is None or not worse.token_ids:
            raise InputError(path, f"{row.id} has no rejected response", "select the rows again")
        longest = max(len(row.token_ids), len(worse.token_ids))
        _check_length(row.id, len(prompt) + longest, max_length)
        yield {"prompt_ids": prompt, "chosen_ids": row.token_ids, "rejected_ids": worse.token_ids}


def of_mean_one(rows: Sequence[TrainingRow]) -> list[TrainingRow]:
    """Return the rows with weights scaled to a mean of 1, so that the loss has SFT's scale."""
    mean = sum(row.get("weight", 1.0) for row in rows) / len(rows)
    return [{**row, "weight": row.get("weight", 1.0) / mean} for row in rows]


def _check_length(id: str, length: int, most: int | None) -> None:
    if most is not None and length > most:
        raise InputError(
            "train.max_length",
            f"{id} has {length} tokens, more than {most}",
            "raise it or lower prompts.max_tokens and sampling.max_new_tokens",
        )


def with_log_probs(
    rows: Sequence[TrainingRow],
    name: Literal["drawn_log_probs", "start_log_probs"],
    log_probs: Sequence[list[float]],
) -> list[TrainingRow]:
    return [cast(TrainingRow, {**row, name: own}) for row, own in zip(rows, log_probs, strict=True)]


def undrawn(row: TrainingRow, like: TrainingRow) -> TrainingRow:
    """Return `row`, which no policy drew, with the optional keys that `like` has.

    The added log-probabilities are NaN, an added weight is 1.
    """
    unknown = [math.nan] * (len(row["labels"]) - 1)
    beside: dict[str, object] = {name: unknown for name in like if name.endswith("log_probs")}
    if "weight" in like:
        beside["weight"] = 1.0
    return cast(TrainingRow, {**row, **beside})


def make_dataset(rows: Sequence[TrainingRow], settings: TrainConfig, seed: int) -> Dataset:
    """Return the rows of all epochs in training order, packed as `settings.packing` says.

    Every rank takes its share of each optimizer step's rows.
    """
    from datasets import Dataset

    if settings.packing == "wrapped":
        rows = concatenate_and_cut(rows, settings.max_length or 0)
    # a row's first token is never predicted, but for GPT-2 the library would count it
    data = Dataset.from_list([{**row, "labels": [IGNORED, *row["labels"][1:]]} for row in rows])
    if settings.packing == "bfd":
        from trl.data_utils import pack_dataset

        data = pack_dataset(data, seq_length=settings.max_length or 0, strategy="bfd")
    silent = {"input_ids": [0], "labels": [IGNORED], "seq_lengths": [1], "weight": 0.0}
    return in_order(data, silent, settings, seed)


def in_order(
    data: Dataset, silent: Mapping[str, object], settings: TrainConfig, seed: int
) -> Dataset:
    """Return the rows of all epochs in order; `silent`, a row without loss, fills batches up."""
    from datasets import Dataset

    filled: list[Any] = [*data, {key: silent.get(key, []) for key in data.column_names}]
    order = training_order(len(data), settings.batch_size, settings.epochs, seed)
    return Dataset.from_list(filled).select(order)


def concatenate_and_cut(rows: Sequence[TrainingRow], length: int) -> list[TrainingRow]:
    """Return blocks of `length` tokens, cut from all rows end to end (LMFlow's packing).

    Tokens after the last whole block are dropped; fewer tokens than one block are one shorter
    block.
    """
    ids = [token for row in rows for token in row["input_ids"]]
    labels = [label for row in rows for label in row["labels"]]
    whole = len(ids) // length * length or len(ids)
    return [
        {"input_ids": ids[i : i + length], "labels": labels[i : i + length]}
        for i in range(0, whole, length)
    ]


def training_order(rows: int, batch_size: int, epochs: float, seed: int) -> list[int]:
    """Return row numbers in the order of training: a permutation per epoch, in whole batches.

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
