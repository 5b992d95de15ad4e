"""llm-blender/Unified-Feedback: eight sources brought to one form by their publishers.

The recipe of Ray2333/reward-model-Mistral-7B-instruct-Unified-Feedback and of GRM (Yang et al.
2024, arXiv 2406.10216): rows of equal ratings are dropped, the higher rated side is chosen, the
margin is the difference, and posts to summarise get a prefix.
"""

from __future__ import annotations

from rewards.pair_sources.checked import checked_pair
from rewards.pair_sources.dialogue import messages, sides
from rewards.pair_sources.record import Options, Outcome, Record, Refusal
from rewards.pair_sources.two_answers import summary_prompt
from rollout.types import Message

__all__ = ["UNIFIED_SOURCES", "unified_feedback_pairs"]

# what stands in `source` -> the name in tables
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
    """`id`, `conv_A`, `conv_B` (message lists), `conv_A_rating`, `conv_B_rating`, `num_turns`,
    `source`; a pair's source is one of the eight names, or what stands there if it is none.
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
    found = sides(dialogues[winner], dialogues[1 - winner], options.parted)
    if isinstance(found, Refusal):
        return [found]
    source = UNIFIED_SOURCES.get(origin, origin)
    fields = {"origin": origin}
    return [checked_pair(record, *found, source=source, margin=abs(first - second), fields=fields)]


def _as_task(dialogue: list[Message], options: Options) -> list[Message]:
    first, *rest = dialogue or [Message(role="user", content="")]
    return [Message(role=first["role"], content=summary_prompt(first["content"], options)), *rest]
