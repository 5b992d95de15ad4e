"""openbmb/UltraFeedback (Cui et al. 2023, arXiv 2310.01377): four completions of an instruction.

| rating | scale | label |
|---|---|---|
| `annotations.X.Rating`, X one of ASPECTS | 1 to 5 | (r − ½) / 5 |
| `overall_score` | 1 to 10 | (r − ½) / 10 |

Both by the rule of `rewards.pair_sources.rated`. Ratings are texts there, and "N/A" is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewards.pair_sources.dialogue import user
from rewards.pair_sources.ranking import Answer, ranked_pairs
from rewards.pair_sources.rated import RatedOutcome, Scale, rated
from rewards.pair_sources.record import Options, Outcome, Record, Refusal
from rollout.types import InputError, Message

__all__ = ["ULTRAFEEDBACK_ASPECTS", "ultrafeedback_pairs", "ultrafeedback_rated"]

ULTRAFEEDBACK_ASPECTS = ("instruction_following", "truthfulness", "honesty", "helpfulness")
_ASPECT_SCALE = Scale(lowest=1, levels=5)
_OVERALL_SCALE = Scale(lowest=1, levels=10)
_RANKS_BY = ("overall_score", "fine-grained_score", *ULTRAFEEDBACK_ASPECTS)


def ultrafeedback_pairs(record: Record, options: Options) -> list[Outcome]:
    """`source`, `instruction`, `models`, `completions` [{model, principle, response, annotations,
    critique, overall_score, fine-grained_score}], `correct_answers`, `incorrect_answers`.

    `options.by` ranks the completions: overall_score unless told (as Unified-Feedback), or
    fine-grained_score (as RLHFlow's mixtures and the binarized sets), or one aspect.
    """
    by = options.by or "overall_score"
    if by not in _RANKS_BY:
        raise InputError(f"by: {by!r} is no rating of UltraFeedback: {', '.join(_RANKS_BY)}")
    answers = [
        Answer(_response(record, completion), _ultrafeedback_value(record, completion, by), labels)
        for completion, labels in _completions(record)
    ]
    if not answers:  # the published file has a few instructions without any completion
        return [Refusal("fewer than two rated answers")]
    fields = {"origin": record.columns.get("source")}
    return ranked_pairs(record, _ultrafeedback_prompt(record), answers, options, fields=fields)


def ultrafeedback_rated(record: Record) -> list[RatedOutcome]:
    prompt = _ultrafeedback_prompt(record)
    return [
        rated(record, prompt, _response(record, completion), labels, suffix=f"/{at}")
        for at, (completion, labels) in enumerate(_completions(record))
    ]


def _ultrafeedback_prompt(record: Record) -> list[Message]:
    return [user(record.text("instruction"))]


def _response(record: Record, completion: Mapping[str, Any]) -> str:
    return record.as_text(completion.get("response"), "completions.response")


def _completions(record: Record) -> list[tuple[Mapping[str, Any], dict[str, float]]]:
    found = []
    for completion in record.as_list(record.get("completions"), "completions"):
        completion = record.as_object(completion, "completions")
        name = "ultrafeedback-overall_score"
        labels = _OVERALL_SCALE.label(record, completion.get("overall_score"), name)
        for aspect in ULTRAFEEDBACK_ASPECTS:
            rating = _rating(record, completion, aspect)
            labels |= _ASPECT_SCALE.label(record, rating, f"ultrafeedback-{aspect}")
        found.append((completion, labels))
    return found


def _rating(record: Record, completion: Mapping[str, Any], aspect: str) -> Any:
    annotations = completion.get("annotations")
    if annotations is None:
        return None
    about = record.as_object(annotations, "annotations").get(aspect)
    return None if about is None else record.as_object(about, f"annotations.{aspect}").get("Rating")


def _ultrafeedback_value(record: Record, completion: Mapping[str, Any], by: str) -> float | None:
    value = _rating(record, completion, by) if by in ULTRAFEEDBACK_ASPECTS else completion.get(by)
    return record.as_number(value, by)
