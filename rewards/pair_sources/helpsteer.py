"""nvidia/HelpSteer and HelpSteer2: single responses, five human ratings each, 0 to 4.

Responses to one prompt stand in consecutive rows (2 in HelpSteer2, up to 4 in HelpSteer).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rewards.pair_sources.dialogue import user
from rewards.pair_sources.ranking import Answer, ranked_pairs
from rewards.pair_sources.rated import RatedOutcome, Scale, rated
from rewards.pair_sources.record import Options, Outcome, Record
from rollout.types import InputError, Message

__all__ = ["HELPSTEER_ASPECTS", "helpsteer_pairs", "helpsteer_rated", "same_prompt"]

HELPSTEER_ASPECTS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
_SCALE = Scale(lowest=0, levels=5)
_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def helpsteer_pairs(records: Sequence[Record], options: Options) -> list[Outcome]:
    """Rows of one prompt: `prompt`, `response`, `helpfulness`, `correctness`, `coherence`,
    `complexity`, `verbosity`. `options.by` names the rating that ranks them, helpfulness unless
    told; "helpfulness+correctness" takes the mean of both, as RLHFlow's mixtures do.
    """
    aspects = (options.by or "helpfulness").split("+")
    if unknown := [aspect for aspect in aspects if aspect not in HELPSTEER_ASPECTS]:
        raise InputError(
            f"by: {unknown[0]!r} is no rating of HelpSteer: {', '.join(HELPSTEER_ASPECTS)}"
        )
    answers = [
        Answer(
            record.text("response"), _helpsteer_value(record, aspects), _helpsteer_labels(record)
        )
        for record in records
    ]
    first = records[0]
    if len(records) == 1:
        return []  # nothing to compare: not a bad row
    return ranked_pairs(first, _helpsteer_prompt(first), answers, options)


def helpsteer_rated(record: Record) -> list[RatedOutcome]:
    return [
        rated(record, _helpsteer_prompt(record), record.text("response"), _helpsteer_labels(record))
    ]


def same_prompt(record: Record) -> str:
    return record.text("prompt")


def _helpsteer_prompt(record: Record) -> list[Message]:
    """HelpSteer2 writes several turns as text between `<extra_id_1>User` and `…Assistant` lines."""
    first, *parts = _TURN.split(record.text("prompt"))
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [user(first), *(Message(role=who.lower(), content=said) for who, said in turns)]


def _helpsteer_value(record: Record, aspects: Sequence[str]) -> float | None:
    values = [record.as_number(record.get(aspect), aspect) for aspect in aspects]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _helpsteer_labels(record: Record) -> dict[str, float]:
    labels: dict[str, float] = {}
    for aspect in HELPSTEER_ASPECTS:
        labels |= _SCALE.label(record, record.columns.get(aspect), f"helpsteer-{aspect}")
    return labels
