"""Read rows that name their better side, in the columns `chosen` and `rejected`.

| format | `chosen`, `rejected` | prompt |
|---|---|---|
| hh | HH-RLHF conversations, or responses beside a conversation `prompt` | in the text |
| messages | whole conversations, or responses alone, as message lists | in them, or `prompt` |
| pair | texts | `prompt`, text or messages |

In each of them a column `margin` may say by how much the better side is better: 0 or more, or null
where it is unknown.

llm-blender/Unified-Feedback: eight sources brought to one form by their publishers. It is read by
the recipe of Ray2333/reward-model-Mistral-7B-instruct-Unified-Feedback and of GRM (Yang et al.
2024, arXiv 2406.10216): rows of equal ratings are skipped, the higher rated side is chosen, the
margin is the difference, and posts to summarise get a prefix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from rewards.data.converters.two_answers import summary_prompt
from rewards.data.dialogue import assistant, is_hh, messages, sides, user
from rewards.data.record import Options, Outcome, Record, Refusal, checked_pair
from rollout.types import InputError, Message

__all__ = [
    "UNIFIED_SOURCES",
    "hh_pairs",
    "message_pairs",
    "text_pairs",
    "unified_feedback_pairs",
]

# preference_700K; HuggingFaceH4/ultrafeedback_binarized; argilla's binarized sets
_SCORES = (
    ("chosen_score", "rejected_score"),
    ("score_chosen", "score_rejected"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
)
_SIDES = ("chosen", "rejected")
_MARGIN = "margin"


def hh_pairs(record: Record, options: Options) -> list[Outcome]:
    r"""Return the pair of a row of HH-RLHF text.

    Anthropic/hh-rlhf: `chosen`, `rejected`, both whole conversations as text.
    Dahoas/full-hh-rlhf: `prompt` (the conversation up to `\n\nAssistant:`), `response` (=
    `chosen`), `chosen`, `rejected` (the responses alone).
    """
    margin = _margin(record, options)
    if isinstance(margin, Refusal):
        return [margin]
    prompt = record.columns.get("prompt")
    fields = record.rest("prompt", "response", _MARGIN, *_SIDES)
    if prompt is None or is_hh(record.get("chosen")):
        chosen, rejected = (messages(record, record.text(key), key) for key in _SIDES)
        return [_of_dialogues(record, chosen, rejected, options, margin, fields)]
    before = messages(record, prompt, "prompt")
    if before and before[-1]["role"] == "assistant" and not before[-1]["content"]:
        before.pop()
    # the blanks around turns belong to the HH text form, not to the responses
    answers = (record.text(key).strip() for key in _SIDES)
    return [checked_pair(record, before, *answers, margin=margin, fields=fields)]


def message_pairs(record: Record, options: Options) -> list[Outcome]:
    """Return the pair of a row of message lists, with its scores where the source has them.

    hendrydong/preference_700K: `chosen`, `rejected`, `chosen_score`, `rejected_score`.
    HuggingFaceH4/ultrafeedback_binarized: `prompt` (the first user turn again), `prompt_id`,
    `chosen`, `rejected`, `messages`, `score_chosen`, `score_rejected`.
    argilla/ultrafeedback-binarized-preferences-cleaned: `source`, `prompt`, `chosen`,
    `chosen-rating`, `chosen-model`, `rejected`, `rejected-rating`, `rejected-model`.
    Also `prompt` as messages beside the responses alone (TRL's conversational form).
    """
    margin = _margin(record, options)
    if isinstance(margin, Refusal):
        return [margin]
    given = [record.get(key) for key in _SIDES]
    dialogues = [
        [assistant(one)] if isinstance(one, str) and not is_hh(one) else messages(record, one, key)
        for key, one in zip(_SIDES, given, strict=True)
    ]
    prompt = record.columns.get("prompt")
    if all(_answer_alone(dialogue) for dialogue in dialogues):
        if prompt is None:
            return [Refusal("no shared prompt")]
        dialogues = [[*_prompt(record, prompt), *dialogue] for dialogue in dialogues]
    elif prompt is not None and not isinstance(prompt, str):
        before = _prompt(record, prompt)
        if any(dialogue[: len(before)] != before for dialogue in dialogues):
            return [Refusal("dialogue does not begin with the prompt")]
    scores = (key for pair in _SCORES for key in pair)
    fields = record.rest("prompt", "messages", _MARGIN, *_SIDES, *scores)
    chosen, rejected = dialogues
    return [_of_dialogues(record, chosen, rejected, options, margin, fields)]


def text_pairs(record: Record, options: Options) -> list[Outcome]:
    """Return the pair of a row with `prompt`, `chosen` and `rejected` as texts.

    Dahoas/synthetic-instruct-gptj-pairwise and many other sets have this form.
    """
    margin = _margin(record, options)
    if isinstance(margin, Refusal):
        return [margin]
    prompt = _prompt(record, record.get("prompt"))
    answers = (record.text(key) for key in _SIDES)
    fields, labels = record.rest("prompt", _MARGIN, *_SIDES), _labels(record)
    pair = checked_pair(record, prompt, *answers, margin=margin, labels=labels, fields=fields)
    return [pair]


def _of_dialogues(
    record: Record,
    chosen: list[Message],
    rejected: list[Message],
    options: Options,
    margin: float | None,
    fields: dict[str, object],
) -> Outcome:
    found = sides(chosen, rejected, options.diverging_prompts)
    if isinstance(found, Refusal):
        return found
    labels = _labels(record)
    return checked_pair(record, *found, margin=margin, labels=labels, fields=fields)


def _prompt(record: Record, value: object) -> list[Message]:
    if isinstance(value, str):
        return [user(record.as_text(value, "prompt"))]
    return messages(record, value, "prompt")


def _answer_alone(dialogue: list[Message]) -> bool:
    """Return whether a side is a response without its prompt: it begins with the assistant.

    It may be several messages: a tool call, what the tool returned, and the reply.
    """
    return bool(dialogue) and dialogue[0]["role"] == "assistant"


def _margin(record: Record, options: Options) -> float | Refusal | None:
    """Return the row's own margin, else the difference of its two scores; None without either.

    Returns a `Refusal` where margin or scores contradict the sides, and for ties to be skipped.
    """
    own = _own_margin(record)
    if own is not None and own < 0:
        return Refusal("margin contradicts the sides")
    keys = next((pair for pair in _SCORES if record.columns.keys() >= set(pair)), None)
    if keys is None:
        return own
    chosen, rejected = (record.as_number(record.columns[key], key) for key in keys)
    if chosen is None or rejected is None:
        return own
    if chosen < rejected:
        return Refusal("scores contradict the sides")
    if chosen == rejected and options.ties == "drop":
        return Refusal("tie")
    return chosen - rejected if own is None else own


def _own_margin(record: Record) -> float | None:
    value = record.columns.get(_MARGIN)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(
            record.where,
            f"'margin' is {repr(value)[:40]}, no finite number",
            "fix it, or make it null",
        )
    return float(value)


def _labels(record: Record) -> dict[str, dict[str, float]] | None:
    """Return the row's `labels` {"chosen": {attribute: number}, "rejected": {…}}; None without."""
    given = record.columns.get("labels")
    if not isinstance(given, Mapping) or set(given) != set(_SIDES):
        return None
    labels: dict[str, dict[str, float]] = {}
    for side in _SIDES:
        values = record.as_object(given[side], f"labels.{side}").items()
        found = ((name, record.as_number(value, name)) for name, value in values)
        labels[side] = {name: value for name, value in found if value is not None}
    return labels


# value of the column `source` -> the name in tables
UNIFIED_SOURCES = {
    "Anthropic/hh-rlhf": "hh-rlhf",
    "openai/summarize_from_feedback(comparisons)": "summarize_from_feedback",
    "openai/webgpt_comparisons": "webgpt_comparisons",
    "Dahoas/synthetic-instruct-gptj-pairwise": "synthetic-instruct-gptj-pairwise",
    "lmsys/chatbot_arena_conversations": "chatbot_arena_conversations",
    "argilla/ultrafeedback-binarized-preferences-cleaned": "ultrafeedback-binarized",
    "berkeley-nest/Nectar": "nectar",
    # rows of openbmb/UltraFeedback carry the name of the set that their instruction came from
    **dict.fromkeys(
        [
            "openbmb/UltraFeedback",
            "evol_instruct",
            "false_qa",
            "flan_v2_cot",
            "flan_v2_flan2021",
            "flan_v2_niv2",
            "flan_v2_p3",
            "sharegpt",
            "truthful_qa",
            "ultrachat",
        ],
        "ultrafeedback",
    ),
}


def unified_feedback_pairs(record: Record, options: Options) -> list[Outcome]:
    """Return the pair of a row of Unified-Feedback; equal ratings are a tie.

    Columns: `id`, `conv_A`, `conv_B` (message lists), `conv_A_rating`, `conv_B_rating`,
    `num_turns`, `source`. The pair's source is one of the eight names, or the column's value where
    it is unknown.
    """
    ratings = [record.as_number(record.get(k), k) for k in ("conv_A_rating", "conv_B_rating")]
    dialogues = [messages(record, record.get(key), key) for key in ("conv_A", "conv_B")]
    origin = record.text("source")
    first, second = ratings
    if first is None or second is None:
        return [Refusal("no rating")]
    if first == second:
        return [Refusal("tie")]
    if "summarize" in origin:
        dialogues = [_as_task(dialogue, options) for dialogue in dialogues]
    winner = int(second > first)
    found = sides(dialogues[winner], dialogues[1 - winner], options.diverging_prompts)
    if isinstance(found, Refusal):
        return [found]
    source = UNIFIED_SOURCES.get(origin, origin)
    fields = {"origin": origin}
    return [checked_pair(record, *found, source=source, margin=abs(first - second), fields=fields)]


def _as_task(dialogue: list[Message], options: Options) -> list[Message]:
    first, *rest = dialogue or [Message(role="user", content="")]
    return [Message(role=first["role"], content=summary_prompt(first["content"], options)), *rest]
