"""Read rows of two responses with a verdict: which one is better, or neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rewards.data.dialogue import messages, sides, user
from rewards.data.record import Options, Outcome, Record, Refusal, checked_pair
from rollout.data.verdicts import ARENA, OPEN_INSTRUCT, SUMMARY_PREFIX
from rollout.types import Message

__all__ = [
    "SUMMARY_PREFIX",
    "Judged",
    "arena_pairs",
    "judgebench_pairs",
    "llmbar_pairs",
    "open_instruct_pairs",
    "read_judgebench",
    "read_llmbar",
    "summarize_pairs",
    "summary_prompt",
    "webgpt_pairs",
]


def summary_prompt(text: str, options: Options) -> str:
    """Return the prompt for a post: the recipe's prefix, then the post without blanks around it."""
    return (SUMMARY_PREFIX if options.prefix is None else options.prefix) + text.strip()


def summarize_pairs(record: Record, options: Options) -> list[Outcome]:
    """Return the pair of a row of openai/summarize_from_feedback, config comparisons.

    Columns: `info` {id, post, title, subreddit, site, article}, `summaries` (two of {text, policy,
    note}), `choice` 0 or 1, `worker`, `batch`, `split`, `extra`. News rows have an `article` where
    the others have a `post`.
    """
    info = record.as_object(record.get("info"), "info")
    post = info.get("post") or info.get("article")
    summaries = record.as_list(record.get("summaries"), "summaries")
    if len(summaries) != 2:
        raise record.wrong("summaries", summaries, "a list of two")
    texts = [
        record.as_text(record.as_object(s, "summaries").get("text"), "text") for s in summaries
    ]
    winner = record.one_of("choice", {0: 0, 1: 1})
    text = "" if post is None else record.as_text(post, "info.post")
    if not text.strip():
        return [Refusal("empty prompt")]
    prompt = [user(summary_prompt(text, options))]
    return [_judged(record, prompt, texts, winner, fields=record.rest("info", "summaries"))]


def webgpt_pairs(record: Record, options: Options) -> list[Outcome]:
    """Return the pair of a row of openai/webgpt_comparisons; the margin is the scores' difference.

    Columns: `question` {dataset, id, full_text}, `answer_0`, `answer_1`, `score_0` = −`score_1` in
    [−1, 1] (0: no preference), `quotes_0`, `tokens_0`, ….
    """
    question = record.get("question")
    if not isinstance(question, str):
        question = record.as_object(question, "question").get("full_text")
    prompt = [user(record.as_text(question, "question.full_text"))]
    first, second = (record.as_number(record.get(k), k) for k in ("score_0", "score_1"))
    if first is None or second is None:
        return [Refusal("no rating")]
    texts = [record.text("answer_0"), record.text("answer_1")]
    winner = None if first == second else int(second > first)
    return [_judged(record, prompt, texts, winner, abs(first - second))]


def arena_pairs(record: Record, options: Options) -> list[Outcome]:
    """Return the pair of a row of lmsys/chatbot_arena_conversations.

    Columns: `question_id`, `model_a`, `model_b`, `winner` (model_a, model_b, tie, tie (bothbad)),
    `judge`, `conversation_a`, `conversation_b`, `turn`, …. Two models' conversations of several
    turns share only their first user turn: see `Options.diverging_prompts`.
    """
    winner = record.one_of("winner", ARENA)
    keys = ("conversation_a", "conversation_b")
    dialogues = [messages(record, record.get(key), key) for key in keys]
    if winner is None:
        return [Refusal("tie")]
    found = sides(dialogues[winner], dialogues[1 - winner], options.diverging_prompts)
    if isinstance(found, Refusal):
        return [found]
    kept = ("model_a", "model_b", "judge", "turn", "language")
    fields = {key: record.columns[key] for key in kept if key in record.columns}
    return [checked_pair(record, *found, fields=fields)]


@dataclass(frozen=True, slots=True)
class Judged:
    """A prompt and two responses, of which `better` (0 or 1) is the better one."""

    prompt: str
    responses: tuple[str, str]
    better: int


def read_llmbar(record: Record) -> Judged:
    """Read a row of LLMBar (Zeng et al. 2023, arXiv 2310.07641).

    Columns: `input`, `output_1`, `output_2`, `label` 1 or 2.
    """
    better = record.one_of("label", {1: 0, 2: 1, "1": 0, "2": 1})
    return Judged(record.text("input"), (record.text("output_1"), record.text("output_2")), better)


def read_judgebench(record: Record) -> Judged:
    """Read a row of JudgeBench (Tan et al. 2024, arXiv 2410.12784).

    Columns: `pair_id`, `original_id`, `source`, `question`, `response_model`, `response_A`,
    `response_B`, `label` "A>B" or "B>A".
    """
    better = record.one_of("label", {"A>B": 0, "B>A": 1})
    responses = (record.text("response_A"), record.text("response_B"))
    return Judged(record.text("question"), responses, better)


def llmbar_pairs(record: Record, options: Options) -> list[Outcome]:
    return [_of_judged(record, read_llmbar(record), "input", "output_1", "output_2")]


def judgebench_pairs(record: Record, options: Options) -> list[Outcome]:
    return [_of_judged(record, read_judgebench(record), "question", "response_A", "response_B")]


def _of_judged(record: Record, found: Judged, *keys: str) -> Outcome:
    fields = record.rest(*keys, "label")
    return _judged(record, [user(found.prompt)], found.responses, found.better, fields=fields)


def open_instruct_pairs(record: Record, options: Options) -> list[Outcome]:
    """Return the pair of a row of open-instruct's human evaluation.

    Columns: `instance_id`, `prompt`, `model_a`, `model_b`, `completion_a`, `completion_b`,
    `completion_a_is_acceptable`, …, `preference`, `evaluator`. The margin is 2 for better, 1 for
    slightly better.
    """
    keys = ("prompt", "completion_a", "completion_b")
    prompt, *texts = (record.text(key) for key in keys)
    winner, margin = record.one_of("preference", OPEN_INSTRUCT)
    return [_judged(record, [user(prompt)], texts, winner, margin, record.rest(*keys))]


def _judged(
    record: Record,
    prompt: Sequence[Message],
    texts: Sequence[str],
    winner: int | None,
    margin: float | None = None,
    fields: Mapping[str, object] | None = None,
) -> Outcome:
    """Return the pair whose chosen side is `texts[winner]`; a `Refusal` where `winner` is None."""
    if winner is None:
        return Refusal("tie")
    chosen, rejected = texts[winner], texts[1 - winner]
    return checked_pair(record, prompt, chosen, rejected, margin=margin, fields=fields)
