"""Token ids to text, as the continuation of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# a decoder may strip the space before its first token; a few prompt tokens in front keep it
_CONTEXT_TOKENS = 4


def decode_continuations(
    tokenizer: Any, prompt_ids: Sequence[int], responses_ids: Sequence[Sequence[int]]
) -> list[str]:
    """The text of each response such that prompt text + response text is the whole text.

    SentencePiece-style decoders drop a leading space when a response is decoded alone; decoding it
    behind the end of its prompt keeps it.
    """
    context = list(prompt_ids[-_CONTEXT_TOKENS:])
    prefix, *texts = tokenizer.batch_decode(
        [context, *([*context, *ids] for ids in responses_ids)],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    return [text[len(prefix) :] for text in texts]
