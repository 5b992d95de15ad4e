"""Make pairs of several responses to one prompt, each with a value. Higher values are better.

The generic form is `prompt`, `responses` and `scores` or `ranks`; `raft score` and `raft rank`
write such rows.

berkeley-nest/Nectar (Zhu et al. 2023): seven responses to one conversation, ranked by GPT-4.

openbmb/UltraFeedback (Cui et al. 2023, arXiv 2310.01377): four responses to an instruction.

| rating | scale | label |
|---|---|---|
| `annotations.X.Rating`, X one of ASPECTS | 1 to 5 | (r − ½) / 5 |
| `overall_score` | 1 to 10 | (r − ½) / 10 |

Both labels follow `rewards.data.rated`. Ratings are texts there, and "N/A" means no rating.

nvidia/HelpSteer and HelpSteer2: single responses, five human ratings each, 0 to 4.

Responses to one prompt stand in consecutive rows (2 in HelpSteer2, up to 4 in HelpSteer).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise

from rewards.data.dialogue import messages, user
from rewards.data.pair import Pair
from rewards.data.rated import RatedOutcome, Scale, rated
from rewards.data.record import Options, Outcome, Record, Refusal, checked_pair
from rollout.data.forms import helpsteer_prompt
from rollout.data.messages import read_answer
from rollout.data.samples import score_of
from rollout.types import InputError, Message

__all__ = [
    "HELPSTEER_ASPECTS",
    "ULTRAFEEDBACK_ASPECTS",
    "Answer",
    "helpsteer_pairs",
    "helpsteer_rated",
    "nectar_pairs",
    "ranked_pairs",
    "ranked_row_pairs",
    "same_prompt",
    "ultrafeedback_pairs",
    "ultrafeedback_rated",
]


@dataclass(frozen=True, slots=True)
class Answer:
    """One response, its value (higher is better, None is unknown), and its labels by attribute."""

    text: str | Message
    value: float | None
    labels: Mapping[str, float] = field(default_factory=dict)


def ranked_pairs(
    record: Record,
    prompt: Sequence[Message],
    answers: Sequence[Answer],
    options: Options,
    *,
    stem: str = "",
    fields: Mapping[str, object] | None = None,
) -> list[Outcome]:
    """Return the pairs that `options.pairs` names; the margin is the difference of the two values.

    Every response without a value and every pair of equal values gives one `Refusal`.
    """
    valued = [answer for answer in answers if answer.value is not None]
    outcomes: list[Outcome] = [Refusal("no rating")] * (len(answers) - len(valued))
    if len(valued) < 2:
        return [*outcomes, Refusal("fewer than two rated answers")]
    for first, second in _chosen_pairs(record.id + stem, valued, options):
        a, b = valued[first], valued[second]
        assert a.value is not None and b.value is not None
        if a.value == b.value:
            outcomes.append(Refusal("tie"))
            continue
        better, worse = (a, b) if a.value > b.value else (b, a)
        labels = {"chosen": better.labels, "rejected": worse.labels}
        outcomes.append(
            checked_pair(
                record,
                prompt,
                better.text,
                worse.text,
                suffix=f"{stem}/{first}-{second}",
                margin=abs(a.value - b.value),
                labels=labels if a.labels or b.labels else None,
                fields=fields,
            )
        )
    return outcomes


def _chosen_pairs(
    id: str, answers: Sequence[Answer], options: Options
) -> Iterator[tuple[int, int]]:
    """Yield the positions in `answers` of the two responses of each pair."""
    if options.pairs == "all":
        yield from combinations(range(len(answers)), 2)
        return
    values = [answer.value or 0.0 for answer in answers]
    order = sorted(range(len(answers)), key=lambda at: -values[at])
    if options.pairs == "adjacent":
        yield from pairwise(order)
    elif options.pairs == "best_vs_worst":
        yield order[0], order[-1]
    else:
        # as UltraFeedback was binarized (Tunstall et al. 2023, arXiv 2310.16944)
        yield order[0], order[1 + _drawn(id, options.seed, len(order) - 1)]


def _drawn(id: str, seed: int, count: int) -> int:
    """Return a number in [0, count) that depends on the seed and the row's id alone."""
    digest = hashlib.blake2b(f"{seed}\x1f{id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count


def ranked_row_pairs(record: Record, options: Options) -> list[Outcome]:
    """Return the pairs of a row in the generic form.

    Columns: `prompt` (text or messages), `responses` [text × K], and K `scores` (higher is better)
    or `ranks` (lower is better), null where missing. With two responses `margin` may replace the
    difference. Raises InputError where there are not K scores or ranks.
    """
    prompt = record.get("prompt")
    asked = (
        [user(record.as_text(prompt, "prompt"))]
        if isinstance(prompt, str)
        else (messages(record, prompt, "prompt"))
    )
    key, sign = ("scores", 1) if "scores" in record.columns else ("ranks", -1)
    values = record.as_list(record.get(key), key)
    texts = record.as_list(record.get("responses"), "responses")
    if len(values) != len(texts):
        raise InputError(
            record.where,
            f"{len(values)} {key} beside {len(texts)} responses",
            "fix the row",
        )
    answers = []
    for at, (text, value) in enumerate(zip(texts, values, strict=True)):
        found = score_of(value, record.where, f"{key}[{at}]")
        known = None if found is None or not math.isfinite(found) else sign * found
        answers.append(Answer(read_answer(text, record.where, f"responses[{at}]").answer, known))
    outcomes = ranked_pairs(record, asked, answers, options)
    if "margin" not in record.columns or len(answers) != 2:
        return outcomes
    # a row of two responses may state the margin beside the scores; null there means unknown
    margin = record.as_number(record.columns["margin"], "margin")
    return [replace(one, margin=margin) if isinstance(one, Pair) else one for one in outcomes]


def nectar_pairs(record: Record, options: Options) -> list[Outcome]:
    r"""Return the pairs of a row of Nectar.

    Columns: `prompt` (`\n\nHuman: … \n\nAssistant: `), `answers` [{answer, model, rank}] with the
    best at rank 1, `turns`, `num_responses`, `source` (a list), `good_natured`. The margin is the
    distance of the ranks. Unified-Feedback took two random pairs of each row; `options.pairs`
    decides here.
    """
    prompt = messages(record, record.text("prompt"), "prompt")
    if prompt and prompt[-1]["role"] == "assistant" and not prompt[-1]["content"]:
        prompt.pop()
    answers = []
    for one in record.as_list(record.get("answers"), "answers"):
        answer = record.as_object(one, "answers")
        rank = record.as_number(answer.get("rank"), "answers.rank")
        text = record.as_text(answer.get("answer"), "answers.answer")
        answers.append(Answer(text, None if rank is None else -rank))
    return ranked_pairs(record, prompt, answers, options)


ULTRAFEEDBACK_ASPECTS = ("instruction_following", "truthfulness", "honesty", "helpfulness")
_ASPECT_SCALE = Scale(lowest=1, levels=5)
_OVERALL_SCALE = Scale(lowest=1, levels=10)
_RANKS_BY = ("overall_score", "fine-grained_score", *ULTRAFEEDBACK_ASPECTS)


def ultrafeedback_pairs(record: Record, options: Options) -> list[Outcome]:
    """Return the pairs of a row of UltraFeedback.

    Columns: `source`, `instruction`, `models`, `completions` [{model, principle, response,
    annotations, critique, overall_score, fine-grained_score}], `correct_answers`,
    `incorrect_answers`.

    `options.by` ranks the completions: overall_score unless given (as Unified-Feedback), or
    fine-grained_score (as RLHFlow's mixtures and the binarized sets), or one aspect. Raises
    InputError for another.
    """
    by = options.by or "overall_score"
    if by not in _RANKS_BY:
        raise InputError("by", f"{by!r} is no rating of UltraFeedback: {', '.join(_RANKS_BY)}")
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


def _response(record: Record, completion: Mapping[str, object]) -> str:
    return record.as_text(completion.get("response"), "completions.response")


def _completions(record: Record) -> list[tuple[Mapping[str, object], dict[str, float]]]:
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


def _rating(record: Record, completion: Mapping[str, object], aspect: str) -> object:
    annotations = completion.get("annotations")
    if annotations is None:
        return None
    about = record.as_object(annotations, "annotations").get(aspect)
    return None if about is None else record.as_object(about, f"annotations.{aspect}").get("Rating")


def _ultrafeedback_value(record: Record, completion: Mapping[str, object], by: str) -> float | None:
    value = _rating(record, completion, by) if by in ULTRAFEEDBACK_ASPECTS else completion.get(by)
    return record.as_number(value, by)


HELPSTEER_ASPECTS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
_SCALE = Scale(lowest=0, levels=5)


def helpsteer_pairs(records: Sequence[Record], options: Options) -> list[Outcome]:
    """Return the pairs of HelpSteer's rows of one prompt; none where there is only one row.

    Columns: `prompt`, `response`, `helpfulness`, `correctness`, `coherence`, `complexity`,
    `verbosity`. `options.by` names the rating that ranks them, helpfulness unless given;
    "helpfulness+correctness" takes the mean of both, as RLHFlow's mixtures do. Raises InputError
    for another.
    """
    aspects = (options.by or "helpfulness").split("+")
    if unknown := [aspect for aspect in aspects if aspect not in HELPSTEER_ASPECTS]:
        raise InputError(
            "by",
            f"{unknown[0]!r} is no rating of HelpSteer: {', '.join(HELPSTEER_ASPECTS)}",
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
    asked = helpsteer_prompt(record.text("prompt"))
    return [user(asked)] if isinstance(asked, str) else asked


def _helpsteer_value(record: Record, aspects: Sequence[str]) -> float | None:
    values = [record.as_number(record.get(aspect), aspect) for aspect in aspects]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _helpsteer_labels(record: Record) -> dict[str, float]:
    labels: dict[str, float] = {}
    for aspect in HELPSTEER_ASPECTS:
        labels |= _SCALE.label(record, record.columns.get(aspect), f"helpsteer-{aspect}")
    return labels
