"""Parse the forms of rows to evaluate on, which are recognised by their columns.

Each form has a parser that gives the row's K responses as groups to score, and their known values
(K,), higher is better. Every error begins with the row's place.

| form | columns |
|---|---|
| pairs | `chosen`, `rejected`, with or without `prompt`; `source` or `subset` |
| rewardbench | `prompt`, `chosen`, `rejected`, `subset`: one of the benchmark's or its prior sets |
| rewardbench2 | `prompt`, lists `chosen` and `rejected`, `num_correct`, `subset`, `id` |
| rm-bench | `prompt`, lists `chosen` and `rejected` of three styles; `domain` or `subset` |
| judgebench | `response_A`, `response_B` and `question`, or `judgments`; `label`, `source` |
| llmbar | `input`, `output_1`, `output_2`, `label` |
| hhh | `prompt`, `chosen`, `rejected`, `source`; or `input`, `targets` |
| listwise | `prompt`, `responses`, and `ranks` or scores to compare with |

Flat rows, one response each, are put together by their prompts to listwise ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Literal, TypeGuard, get_args

from rewards.data.converters.two_answers import Judged, read_judgebench, read_llmbar
from rewards.data.record import Record
from rewards.evaluation import rewardbench, rewardbench2
from rewards.evaluation.rewardbench import PRIOR_SETS
from rewards.evaluation.rewardbench import SUBSETS as REWARDBENCH_SUBSETS
from rewards.evaluation.small_benchmarks import LABELS
from rollout.data.forms import column, known_columns
from rollout.data.jsonl import is_list, is_object, json_kind
from rollout.data.messages import check_text, hh_prompt, prompt_content, read_answer
from rollout.data.pairs import pair_groups, response_groups
from rollout.data.pools import is_flat
from rollout.data.samples import check_scores
from rollout.errors import InputError
from rollout.types import Completion, Group, Message, Prompt

__all__ = [
    "FORMS",
    "HHH_SOURCES",
    "Form",
    "Parts",
    "gold_column",
    "parse_form",
    "recognise",
]

Form = Literal[
    "pairs", "rewardbench", "rewardbench2", "rm-bench", "judgebench", "llmbar", "hhh", "listwise"
]
FORMS: tuple[Form, ...] = get_args(Form)
# forms whose columns mean something else in other rows, and so are not renamed
_OWN_COLUMNS: tuple[Form, ...] = ("judgebench", "llmbar", "hhh")
HHH_SOURCES = ("helpful", "honest", "harmless", "other")
_STYLES = 3


def recognise(columns: dict[str, object], where: str) -> Form | None:
    """Return the form of a row; None where its columns fit none.

    One row is enough to tell, since all rows of a set have one form.
    """
    form = _recognise(columns)
    if form in _OWN_COLUMNS:
        return form
    known = known_columns(columns, where)
    form = _recognise(known)
    # two responses and a verdict, of which `known_columns` makes ranks, are a pair
    return "pairs" if form == "listwise" and _judged_two(columns, known) else form


def _judged_two(columns: Mapping[str, object], known: Mapping[str, object]) -> bool:
    return "responses" in known and "ranks" in known and "responses" not in columns


def _recognise(columns: Mapping[str, object]) -> Form | None:
    keys = columns.keys()
    if "label" in keys and ({"response_A", "response_B"} <= keys or "judgments" in keys):
        return "judgebench"
    if {"output_1", "output_2", "label"} <= keys:
        return "llmbar"
    if {"input", "targets"} <= keys:
        return "hhh"
    if {"chosen", "rejected"} <= keys:
        return _of_sides(columns)
    return "listwise" if {"prompt", "responses"} <= keys or is_flat(columns) else None


def _of_sides(columns: Mapping[str, object]) -> Form:
    chosen, rejected = columns["chosen"], columns["rejected"]
    if _texts(chosen) and _texts(rejected):
        styles = len(chosen) == len(rejected) == _STYLES and "num_correct" not in columns
        return "rm-bench" if styles else "rewardbench2"
    if isinstance(chosen, str) and "prompt" in columns:
        if columns.get("subset") in (*REWARDBENCH_SUBSETS, *PRIOR_SETS):
            return "rewardbench"
        if columns.get("source") in HHH_SOURCES and isinstance(columns["prompt"], str):
            return "hhh"
    return "pairs"


def _texts(value: object) -> TypeGuard[list[str]]:
    """Return whether `value` is a list of texts; a list of messages is one conversation instead."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


Parts = tuple[tuple[Group, ...], tuple[float, ...]]

# columns of listwise rows that may hold the known order; names that mark a column of ranks
GOLD_COLUMNS = ("ranks", "gold_scores", "scores")
_RANKS = ("rank", "ranks")
_OWN = {
    "id", "prompt", "chosen", "rejected", "responses", "question", "response_A", "response_B",
    "label", "judgments", "input", "output_1", "output_2", "targets",
}  # fmt: skip


def parse_form(
    form: Form, columns: dict[str, object], id: str, where: str, gold: str | None = None
) -> Parts:
    """Return the responses of a row and their known values; `gold` names a listwise row's column.

    Raises InputError for a row that is not of this form.
    """
    if form not in _OWN_COLUMNS:
        columns = known_columns(columns, where)
    _check_columns(columns, form, where)
    if form == "listwise":
        return _listwise(columns, id, where, gold)
    return _PARSERS[form](columns, id, where)


def gold_column(columns: dict[str, object], given: str | None = None) -> str | None:
    """Return the column that holds a listwise row's known order: `given`, else the first there is.

    None where the row has no such column.
    """
    if given is not None:
        return given if given in columns or given.partition(".")[0] in columns else None
    return next((name for name in GOLD_COLUMNS if name in columns), None)


_NEEDED: dict[Form, tuple[str, ...]] = {
    "pairs": ("chosen", "rejected"),
    "rewardbench": ("prompt", "chosen", "rejected", "subset"),
    "rewardbench2": ("prompt", "chosen", "rejected", "subset", "id"),
    "rm-bench": ("prompt", "chosen", "rejected"),
    "judgebench": ("label",),
    "llmbar": ("input", "output_1", "output_2", "label"),
    "hhh": (),
    "listwise": ("prompt", "responses"),
}


def _check_columns(columns: dict[str, object], form: Form, where: str) -> None:
    missing = [key for key in _NEEDED[form] if key not in columns]
    of_two = form == "pairs" and "responses" in columns and gold_column(columns) is not None
    if missing and not of_two:
        raise InputError(
            where,
            f"no column {missing[0]!r}, which rows of form {form} need",
            "add it, or say the form with --form",
        )


def _group(
    columns: dict[str, object],
    id: str,
    content: str | tuple[Message, ...],
    drawn: Sequence[Completion],
) -> Group:
    fields = {key: value for key, value in columns.items() if key not in _OWN}
    return Group(Prompt(id, content, fields), tuple(drawn), 0)


def _pair(columns: dict[str, object], id: str, where: str) -> Parts:
    if "chosen" not in columns:
        return _listwise(columns, id, where, None)
    fields = {key: value for key, value in columns.items() if key not in _OWN}
    return pair_groups(columns, id, fields, where), (1.0, 0.0)


def _rewardbench(columns: dict[str, object], id: str, where: str) -> Parts:
    names = (*rewardbench.SUBSETS, *rewardbench.PRIOR_SETS, *rewardbench.UNSCORED)
    _check_subset(columns["subset"], names, "RewardBench", where)
    return _pair(columns, id, where)


def _rewardbench2(columns: dict[str, object], id: str, where: str) -> Parts:
    subset = columns["subset"]
    _check_subset(subset, rewardbench2.SUBSETS, "RewardBench 2", where)
    right, wrong = _responses(columns, "chosen", where), _responses(columns, "rejected", where)
    if subset == rewardbench2.TIES:
        rewardbench2.split_tie_id(id, where)
    elif len(right) != 1:
        raise InputError(
            where,
            f"'chosen' holds {len(right)} responses, and outside Ties one is right",
            "fix the row",
        )
    correct, total = columns.get("num_correct"), columns.get("total_completions")
    if correct not in (None, len(right)) or total not in (None, len(right) + len(wrong)):
        raise InputError(
            where,
            f"num_correct or total_completions does not fit {len(right)} chosen and "
            f"{len(wrong)} rejected responses",
            "fix the row",
        )
    return _right_and_wrong(columns, id, where, right, wrong)


def _rm_bench(columns: dict[str, object], id: str, where: str) -> Parts:
    right, wrong = _responses(columns, "chosen", where), _responses(columns, "rejected", where)
    if (len(right), len(wrong)) != (3, 3):
        raise InputError(
            where,
            f"{len(right)} chosen and {len(wrong)} rejected responses, where RM-Bench has "
            "three styles of each",
            "fix the row",
        )
    return _right_and_wrong(columns, id, where, right, wrong)


def _right_and_wrong(
    columns: dict[str, object],
    id: str,
    where: str,
    right: list[Completion],
    wrong: list[Completion],
) -> Parts:
    content = prompt_content(columns["prompt"], where)
    gold = (1.0,) * len(right) + (0.0,) * len(wrong)
    return (_group(columns, id, content, [*right, *wrong]),), gold


def _judgebench(columns: dict[str, object], id: str, where: str) -> Parts:
    record = Record(id, where, "", columns)
    unread = columns.get("response_A") is None and columns.get("response_B") is None
    if unread and "judgments" in columns:
        better = record.one_of("label", {label: place for place, label in enumerate(LABELS)})
        return (), _first_or_second(better)
    return _judged(columns, id, where, read_judgebench(record))


def _llmbar(columns: dict[str, object], id: str, where: str) -> Parts:
    return _judged(columns, id, where, read_llmbar(Record(id, where, "", columns)))


def _judged(columns: dict[str, object], id: str, where: str, found: Judged) -> Parts:
    content = check_text(found.prompt, where, "the prompt")
    drawn = [Completion(text) for text in found.responses]
    return (_group(columns, id, content, drawn),), _first_or_second(found.better)


def _first_or_second(better: int) -> tuple[float, float]:
    return (1.0, 0.0) if better == 0 else (0.0, 1.0)


def _hhh(columns: dict[str, object], id: str, where: str) -> Parts:
    """Parse a row of HHH in either spelling: a pair, or BIG-bench's choices with one label each."""
    asked = columns.get("prompt") if columns.get("prompt") is not None else columns.get("input")
    text = check_text(asked, where, "prompt" if "prompt" in columns else "input")
    targets = columns.get("targets")
    if targets is None:
        texts = [read_answer(columns.get(key), where, key) for key in ("chosen", "rejected")]
        gold = (1.0, 0.0)
    else:
        texts, gold = _choices(targets, where)
    # the first turn comes without its "Human:", later ones with theirs
    content = hh_prompt(
        text if text.lstrip().startswith("Human:") else f"\n\nHuman: {text}", where, "prompt"
    )
    return (_group(columns, id, content, texts),), gold


def _choices(targets: object, where: str) -> tuple[list[Completion], tuple[float, ...]]:
    held = targets if is_object(targets) else {}
    choices, labels = held.get("choices"), held.get("labels")
    choices = choices if is_list(choices) else []
    labels = labels if is_list(labels) else []
    if len(choices) != len(labels) or sorted(map(str, labels)) != ["0", "1"]:
        raise InputError(where, "'targets' does not hold two choices and labels 1 and 0", "fix it")
    texts = [read_answer(one, where, f"choices[{k}]") for k, one in enumerate(choices)]
    return texts, tuple(float(str(label)) for label in labels)


def _listwise(columns: dict[str, object], id: str, where: str, given: str | None) -> Parts:
    count = len(_list(columns, "responses", where))
    name = gold_column(columns, given)
    if name is None:
        wanted = repr(given) if given else f"{', '.join(GOLD_COLUMNS[:-1])} or {GOLD_COLUMNS[-1]}"
        raise InputError(
            where,
            f"no column {wanted} that says how good the responses are",
            "name it with --gold-column",
        )
    values = check_scores(column(columns, name, where), count, f"{where}: {name!r}")
    sign = -1.0 if name.rsplit("_", 1)[-1] in _RANKS else 1.0
    gold = tuple(
        math.nan if value is None or not math.isfinite(value) else sign * value for value in values
    )
    fields = {key: value for key, value in columns.items() if key not in _OWN}
    drawn = partial(_responses, columns, "responses", where)
    return response_groups(columns, drawn, id, fields, where), gold


def _responses(columns: dict[str, object], key: str, where: str) -> list[Completion]:
    held = _list(columns, key, where)
    return [read_answer(one, where, f"{key}[{k}]") for k, one in enumerate(held)]


def _list(columns: dict[str, object], key: str, where: str) -> list[object]:
    value = columns[key]
    if not is_list(value) or not value:
        raise InputError(where, f"{key!r} is {json_kind(value)}", "make it a list of texts")
    return value


def _check_subset(given: object, known: Sequence[str], benchmark: str, where: str) -> None:
    if given in known:
        return
    close = get_close_matches(str(given), known, n=1)
    hint = f"did you mean {close[0]}" if close else "fix it"
    raise InputError(
        where,
        f"subset {given!r} is none of {benchmark}",
        f"{hint}, or say the form of the rows with --form",
    )


_PARSERS: dict[Form, Callable[[dict[str, object], str, str], Parts]] = {
    "pairs": _pair,
    "rewardbench": _rewardbench,
    "rewardbench2": _rewardbench2,
    "rm-bench": _rm_bench,
    "judgebench": _judgebench,
    "llmbar": _llmbar,
    "hhh": _hhh,
}
