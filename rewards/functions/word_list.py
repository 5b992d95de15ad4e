"""Reward by mood: positive minus negative words of a lexicon."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from rewards.functions.text import completion_texts
from rollout.types import InputError

PUNCTUATION = '.,!?"'
Lexicon = tuple[frozenset[str], frozenset[str]]


def word_list(
    prompts: Sequence[object],
    completions: Sequence[object],
    *,
    lexicon: str | Path | Mapping[str, Sequence[str]] | None = None,
    **columns: object,
) -> list[float]:
    """Return the number of words in "positive" minus the number in "negative".

    `lexicon` is a JSON file, or a mapping, `{"positive": [words], "negative": [words]}`. Words
    are separated by white space, lower-cased and stripped of `.,!?"`.
    Raises `InputError` for a lexicon that is missing, malformed, or contradicts itself.
    """
    positive, negative = _lexicon(lexicon)
    return [
        float(sum((word in positive) - (word in negative) for word in _words(text)))
        for text in completion_texts(completions)
    ]


def _words(text: str) -> list[str]:
    return [word.strip(PUNCTUATION) for word in text.lower().split()]


def _lexicon(lexicon: str | Path | Mapping[str, Sequence[str]] | None) -> Lexicon:
    if lexicon is None:
        raise InputError("word_list", "the setting 'lexicon' is missing", "give a JSON file")
    if isinstance(lexicon, Mapping):
        return _checked(lexicon, "the given mapping")
    return _read(Path(lexicon))


@lru_cache(maxsize=16)
def _read(path: Path) -> Lexicon:
    if not path.is_file():
        raise InputError("word_list", f"no lexicon at {path}", "give a JSON file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError("word_list", f"{path} is not JSON: {error}") from error
    return _checked(content, str(path))


def _checked(content: object, source: str) -> Lexicon:
    if not isinstance(content, Mapping) or set(content) != {"positive", "negative"}:
        raise InputError("word_list", f'{source} must hold exactly "positive" and "negative"')
    positive, negative = (_word_set(content[key], key, source) for key in ("positive", "negative"))
    both = sorted(positive & negative)
    if both:
        raise InputError(
            "word_list",
            f"{source} has {both[0]!r} as positive and as negative word",
        )
    return positive, negative


def _word_set(words: object, key: str, source: str) -> frozenset[str]:
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise InputError("word_list", f"{key!r} in {source} must be a list of words")
    return frozenset(word.lower() for word in words)
