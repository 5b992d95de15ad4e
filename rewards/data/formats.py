"""List every format of preference data: how it is recognised and which converter reads it.

Formats of Unified-Feedback's eight sources as first published: hh (hh-rlhf), summarize, webgpt,
pair (synthetic-instruct-gptj-pairwise), arena, ultrafeedback, messages (its binarized set), nectar.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from rewards.data.converters.chosen_rejected import (
    hh_pairs,
    message_pairs,
    text_pairs,
    unified_feedback_pairs,
)
from rewards.data.converters.rankings import (
    HELPSTEER_ASPECTS,
    helpsteer_pairs,
    helpsteer_rated,
    nectar_pairs,
    ranked_row_pairs,
    same_prompt,
    ultrafeedback_pairs,
    ultrafeedback_rated,
)
from rewards.data.converters.trees import flat_oasst_pairs, oasst_pairs, same_tree
from rewards.data.converters.two_answers import (
    arena_pairs,
    judgebench_pairs,
    llmbar_pairs,
    open_instruct_pairs,
    summarize_pairs,
    webgpt_pairs,
)
from rewards.data.dialogue import is_hh
from rewards.data.rated import RatedOutcome, generic_rated
from rewards.data.record import Options, Outcome, Record
from rollout.data.forms import known_columns
from rollout.data.pools import is_flat
from rollout.types import InputError

__all__ = ["FORMATS", "Format", "columns_of", "find_format", "recognise"]

_Columns = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One form of rows.

    Args:
        columns: the columns that every row of the form has, by which it is recognised.
        pairs: makes pairs of a row; None where rows are single responses without a comparison.
        pairs_of_many: makes pairs of consecutive rows that have the same `key`.
        key: what such rows share, a prompt or a tree; None where rows stand alone.
        rated: makes rated single responses of a row.
        flat: rows have one response each, and are put together by their prompts first.
        known: rows are read under the names of `rollout.data.forms`, so that rows with other names
            for the same columns are read too.
        fits: what else must hold of the columns.
        about: `fits` in words.
    """

    columns: tuple[str, ...]
    pairs: Callable[[Record, Options], list[Outcome]] | None = None
    pairs_of_many: Callable[[Sequence[Record], Options], list[Outcome]] | None = None
    key: Callable[[Record], str] | None = None
    rated: Callable[[Record], list[RatedOutcome]] | None = None
    known: bool = False
    flat: bool = False
    fits: Callable[[_Columns], bool] = lambda columns: True
    about: str = ""


def _are_texts(columns: _Columns) -> bool:
    return all(isinstance(columns[side], str) for side in ("chosen", "rejected"))


def _is_hh(columns: _Columns) -> bool:
    if not _are_texts(columns):
        return False
    return is_hh(columns["chosen"]) or is_hh(columns.get("prompt"))


# the first format that fits is taken, so the more specific ones come first
FORMATS: dict[str, Format] = {
    "unified_feedback": Format(
        columns=("conv_A", "conv_B", "conv_A_rating", "conv_B_rating", "source"),
        pairs=unified_feedback_pairs,
    ),
    "arena": Format(columns=("conversation_a", "conversation_b", "winner"), pairs=arena_pairs),
    "summarize": Format(columns=("info", "summaries", "choice"), pairs=summarize_pairs),
    "webgpt": Format(
        columns=("question", "answer_0", "answer_1", "score_0", "score_1"),
        pairs=webgpt_pairs,
    ),
    "ultrafeedback": Format(
        columns=("instruction", "completions"),
        pairs=ultrafeedback_pairs,
        rated=ultrafeedback_rated,
    ),
    "nectar": Format(columns=("prompt", "answers"), pairs=nectar_pairs),
    "helpsteer": Format(
        columns=("prompt", "response", *HELPSTEER_ASPECTS),
        pairs_of_many=helpsteer_pairs,
        key=same_prompt,
        rated=helpsteer_rated,
    ),
    "oasst": Format(
        columns=("message_tree_id", "prompt"),
        pairs=oasst_pairs,
        fits=lambda columns: isinstance(columns["prompt"], Mapping),
        about="prompt is a tree",
    ),
    "oasst_flat": Format(
        columns=("message_id", "parent_id", "text", "role", "message_tree_id"),
        pairs_of_many=flat_oasst_pairs,
        key=same_tree,
    ),
    "judgebench": Format(
        columns=("question", "response_A", "response_B", "label"),
        pairs=judgebench_pairs,
    ),
    "llmbar": Format(columns=("input", "output_1", "output_2", "label"), pairs=llmbar_pairs),
    "open_instruct": Format(
        columns=("prompt", "completion_a", "completion_b", "preference"),
        pairs=open_instruct_pairs,
    ),
    "messages": Format(
        columns=("chosen", "rejected"),
        pairs=message_pairs,
        known=True,
        fits=lambda columns: not _are_texts(columns),
        about="they are messages",
    ),
    "hh": Format(
        columns=("chosen", "rejected"),
        pairs=hh_pairs,
        known=True,
        fits=_is_hh,
        about="they hold Human: and Assistant: turns",
    ),
    "pair": Format(
        columns=("prompt", "chosen", "rejected"),
        pairs=text_pairs,
        known=True,
        fits=_are_texts,
        about="the sides are texts",
    ),
    "ranked": Format(
        columns=("prompt", "responses"),
        pairs=ranked_row_pairs,
        known=True,
        fits=lambda columns: "scores" in columns or "ranks" in columns,
        about="with scores or ranks",
    ),
    "flat": Format(
        columns=(),
        pairs=ranked_row_pairs,
        known=True,
        flat=True,
        fits=lambda columns: is_flat(columns) and bool(columns.keys() & {"score", "rank"}),
        about="messages, or prompt and response, with score or rank",
    ),
    "rated": Format(
        columns=(),
        rated=generic_rated,
        known=True,
        fits=lambda columns: "messages" in columns or columns.keys() >= {"prompt", "response"},
        about="messages, or prompt and response, with labels",
    ),
}


def find_format(name: str) -> Format:
    """Return the format of a name. Raises InputError for an unknown one."""
    if name not in FORMATS:
        close = get_close_matches(name, FORMATS, n=1)
        meant = f"did you mean {close[0]}; " if close else ""
        raise InputError(
            "format", f"{name!r} is not known", f"{meant}use auto or one of {', '.join(FORMATS)}"
        )
    return FORMATS[name]


def columns_of(name: str, columns: dict[str, object], where: str) -> dict[str, object]:
    """Return a row's columns under the names that format `name` reads.

    Raises InputError as `find_format` and `known_columns` do.
    """
    return known_columns(columns, where) if find_format(name).known else columns


def recognise(columns: dict[str, object], where: str, use: str = "pairs") -> tuple[str, str]:
    """Return (format, why) of a row by its columns, among formats for `use`: "pairs" or "rated".

    Raises InputError for columns that fit no such format.
    """
    known: dict[str, object] | None = None
    for name, format in FORMATS.items():
        useful = format.rated if use == "rated" else format.pairs or format.pairs_of_many
        if format.known and known is None:
            known = known_columns(columns, where)
        held = columns if known is None else known
        if useful and held.keys() >= set(format.columns) and format.fits(held):
            listed = ", ".join(format.columns)
            about = f"{'; ' if listed else ''}{format.about}" if format.about else ""
            return name, f"columns {listed}{about}" if listed else format.about
    there = ", ".join(map(str, columns)) or "no columns"
    names = [n for n, f in FORMATS.items() if (f.rated if use == "rated" else n != "rated")]
    write = "prompt, chosen and rejected" if use == "pairs" else "prompt, response and labels"
    raise InputError(
        where,
        f"no format of {use} has the columns {there}",
        f"name one of {', '.join(names)} as format, or write {write}",
    )
