"""Decode the token ids of responses as continuations of their prompts, and cut at stop strings."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Protocol

# a decoder may strip the space before its first token; these prompt tokens in front preserve it
_CONTEXT_TOKENS = 4
# what decoders write for bytes of an incomplete character
_BROKEN = "\N{REPLACEMENT CHARACTER}"


class Decoder(Protocol):
    """The part of a transformers tokenizer that decoding needs."""

    def batch_decode(
        self,
        sequences: list[list[int]],
        *,
        skip_special_tokens: bool,
        clean_up_tokenization_spaces: bool,
    ) -> list[str]: ...


def decode_continuations(
    tokenizer: Decoder, prompt_ids: Sequence[int], responses_ids: Sequence[Sequence[int]]
) -> list[str]:
    """Return the text of each response such that prompt text + response text is the whole text.

    SentencePiece-style decoders lose a leading space when a response is decoded alone, so each
    response is decoded together with the last tokens of its prompt.
    """
    context = _context(tokenizer, prompt_ids)
    prefix, *texts = _decode(tokenizer, [context, *([*context, *ids] for ids in responses_ids)])
    return [text[len(prefix) :] for text in texts]


def find_stop(text: str, stops: Sequence[str], start: int = 0) -> int | None:
    """Return the index of the earliest stop string that ends after the first `start` characters.

    None where the text has no such stop string.
    """
    found = (text.find(stop, max(0, start - len(stop) + 1)) for stop in stops)
    return min((at for at in found if at >= 0), default=None)


def cut_at_stop(
    tokenizer: Decoder,
    prompt_ids: Sequence[int],
    ids: Sequence[int],
    stops: Sequence[str],
    min_new_tokens: int = 0,
) -> tuple[list[int], str] | None:
    """Return the ids up to the token that completes the first stop string, and the text before it.

    Stop strings within the first `min_new_tokens` tokens do not count. None without a stop string.
    """

    def text_of(length: int) -> str:
        return decode_continuations(tokenizer, prompt_ids, [ids[:length]])[0]

    start = len(text_of(min_new_tokens)) if min_new_tokens else 0
    if find_stop(text_of(len(ids)), stops, start) is None:
        return None
    lengths = range(min_new_tokens + 1, len(ids) + 1)
    stopped = bisect_left(
        lengths, True, key=lambda n: find_stop(text_of(n), stops, start) is not None
    )
    length = lengths[min(stopped, len(lengths) - 1)]
    text = text_of(length)
    return list(ids[:length]), text[: find_stop(text, stops, start)]


def _context(tokenizer: Decoder, prompt_ids: Sequence[int]) -> list[int]:
    """Return the last ids of the prompt, enough (or all) to decode to text of whole characters."""
    size = _CONTEXT_TOKENS
    while True:
        context = list(prompt_ids[-size:])
        if len(context) == len(prompt_ids):
            return context
        text = _decode(tokenizer, [context])[0]
        if text and _BROKEN not in text:
            return context
        size *= 2


def _decode(tokenizer: Decoder, rows: Sequence[Sequence[int]]) -> list[str]:
    return tokenizer.batch_decode(
        [list(row) for row in rows],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
