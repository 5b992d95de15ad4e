"""The gold reward of the demo: a sum of points for what a customer would think of a response.

The reward model is trained only on noisy preferences drawn from the gold reward. The demo draws the
curves of both, so that over-optimization of the reward model is seen where gold does not follow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from raft.demo.corpus import NAMES, PROBLEMS, REMEDIES, THINGS

__all__ = ["gold", "points"]

Text = str | Sequence[Mapping[str, str]]  # or the messages of a conversation

KIND = {
    "apologise", "care", "dear", "gladly", "happy", "lovely", "patience", "sorry", "thank",
    "understand", "welcome",
}  # fmt: skip
RUDE = {
    "annoying", "away", "fault", "lazy", "never", "nobody", "not", "silly", "stop", "stupid",
    "whining", "yourself",
}  # fmt: skip
# number of words above which each further word costs points
LONG = 32


class _Case(NamedTuple):
    """The customer's name, the thing and the right remedy, read from a prompt."""

    name: str | None
    thing: str
    remedy: str


def gold(
    prompts: Sequence[Text], completions: Sequence[Text], **columns: object
) -> list[float | None]:
    """Return one score per completion; None where the prompt is not one of the demo's.

    The signature is that of TRL's reward functions: texts, or lists of messages.
    """
    scores: list[float | None] = []
    for prompt, completion in zip(prompts, completions, strict=True):
        case = _case(_text(prompt))
        scores.append(None if case is None else sum(_points(case, _text(completion)).values()))
    return scores


def points(prompt: str, completion: str) -> dict[str, float]:
    """Return the points that `gold` adds up, by name. Raises ValueError for a foreign prompt."""
    case = _case(prompt)
    if case is None:
        raise ValueError(f"not a prompt of the demo: {prompt!r}")
    return _points(case, completion)


def _points(case: _Case, completion: str) -> dict[str, float]:
    words = _words(completion)
    # kindness counts distinct words, up to four: saying "sorry" five times is worth no more
    return {
        "kindness": 0.75 * min(4, len(KIND & set(words))),
        "rudeness": -1.0 * min(4, sum(word in RUDE for word in words)),
        "thing": _named(case.thing, THINGS, words),
        "name": 0.5 * _named(case.name, NAMES, words),
        "remedy": 1.5 * _named(case.remedy, REMEDIES, words) * ("not" not in words),
        "repetition": -2.0 * _repetition(words),
        "length": -0.1 * max(0, len(words) - LONG),
        "ending": 0.0 if completion.rstrip().endswith((".", "!", "?")) else -1.0,
    }


def _named(right: str | None, known: Iterable[str], words: list[str]) -> float:
    """Return 1 where the words name `right` alone of `known`, −0.5 for any other, 0 for none."""
    named = {word for word in words if word in {one.lower() for one in known}}
    if named - {right and right.lower()}:
        return -0.5
    return 1.0 if named else 0.0


def _repetition(words: list[str]) -> float:
    """Return the share of word triples that occurred earlier in the text; 0 without triples."""
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(triples)) / len(triples) if triples else 0.0


def _case(prompt: str) -> _Case | None:
    words = set(_words(prompt))
    thing = next((thing for thing in THINGS if thing in words), None)
    remedy = next((remedy for problem, remedy in PROBLEMS.items() if problem in prompt), None)
    name = next((name for name in NAMES if name.lower() in words), None)
    return _Case(name, thing, remedy) if thing and remedy else None


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _text(value: Text) -> str:
    """Return a text unchanged, or the contents of a list of messages joined by line breaks."""
    return value if isinstance(value, str) else "\n".join(turn["content"] for turn in value)
