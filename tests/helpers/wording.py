"""What a message must say, without pinning how it says it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raft.cli.main import main


def words(text: str) -> str:
    """A pattern for these words in this order; case, punctuation and words between are free."""
    bare = (word.strip(".,:;!?()\"'") for word in text.split())
    return "(?is)" + ".*".join(
        re.sub(r"^(?=\w)|(?<=\w)$", r"\\b", re.escape(word)) for word in bare if word
    )


def says(message: object, text: str) -> bool:
    """Whether a message, or an error's, has the words of `text` in their order."""
    return re.search(words(text), str(message)) is not None


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line with which a command refuses its arguments, without its beginning."""
    assert main([str(one) for one in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("raft: ") and said.endswith("\n") and said.count("\n") == 1
    return said.removeprefix("raft: ").rstrip("\n")
