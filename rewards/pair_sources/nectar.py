"""berkeley-nest/Nectar (Zhu et al. 2023): seven answers of one dialogue, ranked by GPT-4."""

from __future__ import annotations

from rewards.pair_sources.dialogue import messages
from rewards.pair_sources.ranking import Answer, ranked_pairs
from rewards.pair_sources.record import Options, Outcome, Record

__all__ = ["nectar_pairs"]


def nectar_pairs(record: Record, options: Options) -> list[Outcome]:
    r"""`prompt` (`\n\nHuman: … \n\nAssistant: `), `answers` [{answer, model, rank}] with rank 1
    the best, `turns`, `num_responses`, `source` (a list), `good_natured`.

    The margin is the distance of the ranks. Unified-Feedback took two random pairs of each row;
    here `options.pairs` says which.
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
