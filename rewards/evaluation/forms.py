"""What rows to evaluate on may look like, told from their columns. Knows nothing of files.

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
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from rewards.evaluation.rewardbench import PRIOR_SETS
from rewards.evaluation.rewardbench import SUBSETS as REWARDBENCH_SUBSETS

__all__ = ["FORMS", "HHH_SOURCES", "Form", "recognise"]

Form = Literal[
    "pairs", "rewardbench", "rewardbench2", "rm-bench", "judgebench", "llmbar", "hhh", "listwise"
]
FORMS: tuple[Form, ...] = get_args(Form)
HHH_SOURCES = ("helpful", "honest", "harmless", "other")
_STYLES = 3


def recognise(columns: Mapping[str, Any]) -> Form | None:
    """The form of a row, None where its columns fit none. One row tells: sets are of one form."""
    keys = columns.keys()
    if "label" in keys and ({"response_A", "response_B"} <= keys or "judgments" in keys):
        return "judgebench"
    if {"output_1", "output_2", "label"} <= keys:
        return "llmbar"
    if {"input", "targets"} <= keys:
        return "hhh"
    if {"chosen", "rejected"} <= keys:
        return _of_sides(columns)
    return "listwise" if {"prompt", "responses"} <= keys else None


def _of_sides(columns: Mapping[str, Any]) -> Form:
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


def _texts(value: Any) -> bool:
    """A list of texts; one of messages is a dialogue."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)
