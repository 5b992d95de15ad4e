"""Answers with ranks or scores in the plainest form, as `raft score` and `raft rank` write them."""

from __future__ import annotations

from rewards.pair_sources.dialogue import messages, user
from rewards.pair_sources.ranking import Answer, ranked_pairs
from rewards.pair_sources.record import Options, Outcome, Record
from rollout.types import InputError

__all__ = ["ranked_row_pairs"]


def ranked_row_pairs(record: Record, options: Options) -> list[Outcome]:
    """`prompt` (text or messages), `responses` [text × K], and `scores` (higher is better) or
    `ranks` (lower is better), one of each response; null is a missing one.

    Raises InputError where their number differs.
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
            f"{record.where}: {len(values)} {key} beside {len(texts)} responses; mend the row"
        )
    answers = []
    for text, value in zip(texts, values, strict=True):
        found = record.as_number(value, key)
        answers.append(
            Answer(record.as_text(text, "responses"), None if found is None else sign * found)
        )
    return ranked_pairs(record, asked, answers, options)
