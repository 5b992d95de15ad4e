"""Read the pairs of a training, hold some of them out, and count both for the model card."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from raft.config.train_reward import TrainRewardConfig
from rewards.data.dialogue import first_turn, same_prompt_key
from rewards.data.pair import Pair
from rewards.data.rated import Rated
from rewards.data.read import read_pairs, read_rated, split_last, split_pairs

__all__ = ["TrainData", "read_train_data"]

log = logging.getLogger("raft")


@dataclass(frozen=True, slots=True)
class TrainData:
    """The data of a training.

    Attributes:
        rest: the pairs that `eval.last` leaves of `eval.data`.
        rated: the rated responses of recipe armorm.
        shared: number of held-out pairs that begin with the first user message of a pair trained
            on, which makes the accuracy too good.
        lines: for every source, how many of its rows were used or skipped.
    """

    train: Sequence[Pair]
    held_out: Sequence[Pair]
    rest: Sequence[Pair]
    rated: Sequence[Rated]
    shared: int
    lines: Sequence[str]


def read_train_data(config: TrainRewardConfig) -> TrainData:
    """Read the sources of a config, split off the held-out pairs, and log what was read.

    Raises InputError for sources that cannot be read, and where nothing can be held out.
    """
    found = read_pairs(config.data, seed=config.seed, on_bad_row=config.on_bad_row)
    train, lines, rest = found.pairs, found.report.lines(), []
    if config.eval.data is not None:
        test = read_pairs(config.eval.data, seed=config.seed, on_bad_row=config.on_bad_row)
        held_out = test.pairs
        lines += [f"held out: {line}" for line in test.report.lines()]
        if config.eval.last is not None and config.eval.last < len(held_out):
            split = split_last(held_out, config.eval.last)
            rest, held_out = split.train, split.held_out
    elif config.eval.last is not None:
        split = split_last(train, config.eval.last)
        train, held_out = split.train, split.held_out
    else:
        split = split_pairs(train, config.eval.share or config.eval.count or 0.1, config.seed)
        train, held_out = split.train, split.held_out
    rated: Sequence[Rated] = ()
    if config.armorm is not None:
        attributes = config.armorm.attributes or ()
        ratings = read_rated(
            config.armorm.rated,
            seed=config.seed,
            attributes=attributes,
            on_bad_row=config.on_bad_row,
        )
        rated = ratings.rated
        lines += [f"rated: {line}" for line in ratings.report.lines()]
    for line in lines:
        log.info("%s", line)
    return TrainData(train, held_out, rest, rated, _shared(train, held_out), lines)


def _shared(train: Sequence[Pair], held_out: Sequence[Pair]) -> int:
    known = {same_prompt_key(first_turn(pair.prompt)) for pair in train}
    count = sum(same_prompt_key(first_turn(pair.prompt)) in known for pair in held_out)
    if count:
        log.warning(
            "%d of %d held-out pairs begin as pairs that are trained on do: the accuracy may be "
            "too good", count, len(held_out),
        )  # fmt: skip
    return count
