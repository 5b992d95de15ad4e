"""Split pairs into training and held-out ones, by prompts or by position."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from rewards.data.dialogue import first_turn, same_prompt_key
from rewards.data.pair import Pair
from rollout.types import InputError

__all__ = ["Split", "split_last", "split_pairs"]


@dataclass(frozen=True, slots=True)
class Split:
    """Training and held-out pairs, each in the order given.

    `shared` counts the held-out pairs whose first user turn is also a training pair's.
    """

    train: list[Pair]
    held_out: list[Pair]
    shared: int = 0


def split_pairs(pairs: Sequence[Pair], held_out: float, seed: int = 0) -> Split:
    """Hold out about a share (below 1) or a number of pairs, whole prompts at a time.

    Pairs whose first user turns are the same but for case, punctuation and spacing stay together:
    one turn of a conversation would reveal the responses of others. The seed and the first turn
    itself decide which are held out, so that the order of the pairs does not matter.

    Raises InputError where nothing, or everything, would be held out.
    """
    wanted = _wanted(len(pairs), held_out)
    groups: dict[str, int] = {}
    keys = [same_prompt_key(first_turn(pair.prompt)) for pair in pairs]
    for key in keys:
        groups[key] = groups.get(key, 0) + 1
    if len(groups) < 2:
        raise InputError(
            "held_out",
            f"all {len(pairs)} pairs have one first turn, so none can be held out",
            "add other prompts",
        )
    taken: set[str] = set()
    total = 0
    for key in sorted(groups, key=lambda key: _draw(seed, key)):
        # a prompt with many pairs must not overshoot by far; a first one is always held out
        if total < wanted and (total + groups[key] <= wanted or not taken):
            taken.add(key)
            total += groups[key]
    if total == len(pairs):
        raise InputError("held_out", f"{held_out:g} leaves no pair to train on", "hold out fewer")
    train = [pair for pair, key in zip(pairs, keys, strict=True) if key not in taken]
    return Split(train, [pair for pair, key in zip(pairs, keys, strict=True) if key in taken])


def split_last(pairs: Sequence[Pair], held_out: int) -> Split:
    """Hold out the last pairs, as the card of weqweasdas/hh_rlhf_rm_open_llama_3b does (6226).

    A prompt may then be on both sides; `shared` counts the held-out pairs with such a prompt.

    Raises InputError where nothing, or everything, would be held out.
    """
    wanted = _wanted(len(pairs), held_out)
    train, last = list(pairs[:-wanted]), list(pairs[-wanted:])
    known = {same_prompt_key(first_turn(pair.prompt)) for pair in train}
    shared = sum(same_prompt_key(first_turn(pair.prompt)) in known for pair in last)
    return Split(train, last, shared)


def _wanted(count: int, held_out: float) -> int:
    wanted = max(1, round(held_out * count)) if 0 < held_out < 1 else round(held_out)
    if isinstance(held_out, bool) or held_out <= 0 or (held_out >= 1 and wanted != held_out):
        raise InputError(
            "held_out",
            f"{held_out!r} is neither a share below 1 nor a number of pairs",
        )
    if wanted >= count:
        raise InputError(
            "held_out",
            f"{held_out:g} of {count} pairs leaves none to train on",
            "hold out fewer",
        )
    return wanted


def _draw(seed: int, key: str) -> bytes:
    return hashlib.blake2b(f"{seed}\x1f{key}".encode(), digest_size=16).digest()
