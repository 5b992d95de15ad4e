"""What a message must say, without pinning how it says it."""

from __future__ import annotations

import re


def words(text: str) -> str:
    """A pattern for these words in this order; case, punctuation and words between are free."""
    bare = (word.strip(".,:;!?()\"'") for word in text.split())
    return "(?is)" + ".*".join(
        re.sub(r"^(?=\w)|(?<=\w)$", r"\\b", re.escape(word)) for word in bare if word
    )


def says(message: object, text: str) -> bool:
    """Whether a message, or an error's, has the words of `text` in their order."""
    return re.search(words(text), str(message)) is not None
