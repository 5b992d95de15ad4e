"""Ratings of single responses for ArmoRM's first stage, since HH-RLHF has none.

Plain functions of the text for HH's training responses, and one rating by people: whether an answer
is acceptable, from the annotations of open-instruct. No rating is made from HH's preferences.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rewards.data.pair import Pair
from rollout.storage.files import whole_file

__all__ = ["ACCEPTABLE", "ATTRIBUTES", "LENGTH", "rate", "write_rated"]

LENGTH, ACCEPTABLE = "length", "acceptable"
_LONG = 300  # words
_WORDS = re.compile(r"[a-z']+")
_REFUSING = re.compile(
    r"\b(sorry|can't|cannot|can’t|not sure|don't know|don’t know|unable|not able|no idea)\b"
)
_CONTENT = 5  # letters; shorter words are mostly grammar


def rate(question: str, response: str) -> dict[str, float]:
    """Return labels in [0, 1] of a response to the user's last turn; higher is better.

    `length`: log(1 + words) / log(301), at most 1. `on_topic`: share of the question's words, of
    five letters or more, that the response repeats, where it has any. `answers`: no word of apology
    or ignorance. `states`: it does not end with a question. `variety`: different words by words,
    of the first 100.
    """
    words = _WORDS.findall(response.lower())
    first = words[:100]
    asked = {word for word in _WORDS.findall(question.lower()) if len(word) >= _CONTENT}
    labels = {
        LENGTH: min(1.0, math.log1p(len(words)) / math.log1p(_LONG)),
        "answers": float(_REFUSING.search(response.lower()) is None),
        "states": float(not response.rstrip().endswith("?")),
        "variety": len(set(first)) / len(first) if first else 0.0,
    }
    if asked:
        labels["on_topic"] = len(asked & set(words)) / len(asked)
    return labels


ATTRIBUTES = (LENGTH, "answers", "states", "variety", "on_topic", ACCEPTABLE)


def write_rated(path: Path, pairs: Sequence[Pair], annotations: Path) -> int:
    """Write rows of {"prompt", "response", "labels"} and return their number.

    They are both sides of `pairs` and the annotated responses.
    """
    count = 0
    with whole_file(path) as file:
        for row in (*_of_pairs(pairs), *_annotated(annotations)):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def _of_pairs(pairs: Sequence[Pair]) -> Iterator[dict[str, Any]]:
    for pair in pairs:
        prompt = [dict(message) for message in pair.prompt]
        for side in ("chosen", "rejected"):
            response = getattr(pair, side)
            labels = rate(pair.prompt[-1]["content"], response)
            yield {"prompt": prompt, "response": response, "labels": labels}


def _annotated(path: Path) -> Iterator[dict[str, Any]]:
    """Yield each annotated response with the share of its evaluators that accept it."""
    votes: dict[tuple[str, str], list[bool]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            for side in ("a", "b"):
                answer, verdict = row[f"completion_{side}"], row[f"completion_{side}_is_acceptable"]
                if answer.strip() and verdict in ("yes", "no"):
                    votes.setdefault((row["prompt"], answer), []).append(verdict == "yes")
    for (prompt, answer), accepted in votes.items():
        share = sum(accepted) / len(accepted)
        yield {"prompt": prompt, "response": answer, "labels": {ACCEPTABLE: share}}
