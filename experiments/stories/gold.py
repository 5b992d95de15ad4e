"""The gold reward of the story experiments: a happy story, told without repeating itself.

It is a function, so that it cannot be exploited as a learned reward can: a happy word counts once
however often it occurs, and repeated word pairs cost reward.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

__all__ = ["gold"]

_REPETITION = 6.0


def gold(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """Return the gold reward of each completion.

    It is the number of distinct happy words, minus the number of sad words, minus 6 × the share
    of repeated word pairs.
    """
    happy, sad = _lexicon()
    return [_of_text(_text(completion), happy, sad) for completion in completions]


def _of_text(text: str, happy: frozenset[str], sad: frozenset[str]) -> float:
    words = re.findall(r"[a-z']+", text.lower())
    pairs = list(pairwise(words))
    repeated = 1 - len(set(pairs)) / len(pairs) if pairs else 0.0
    return len(happy & set(words)) - sum(word in sad for word in words) - _REPETITION * repeated


@lru_cache(maxsize=1)
def _lexicon() -> tuple[frozenset[str], frozenset[str]]:
    from experiments.data import data

    words = json.loads(data("data/lexicon/story_mood.json").read_text())
    return frozenset(words["positive"]), frozenset(words["negative"])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "\n".join(turn["content"] for turn in value)
