"""Foreign text: nothing that a terminal obeys, nothing lost, and JSON stays JSON."""

from __future__ import annotations

import json
import re
import sys

import pytest

from rollout.errors import InputError
from rollout.text.printable import listed, one_line, printable, printable_json

EVERY = "".join(map(chr, range(sys.maxunicode + 1)))


@pytest.mark.slow
def test_no_control_character_is_left() -> None:
    shown = printable(EVERY)
    for start, end in (
        (0, 0x20),
        (0x7F, 0xA0),
        (0x202A, 0x202F),
        (0x2066, 0x206A),
        (0xD800, 0xE000),
    ):
        left = {chr(code) for code in range(start, end)} & set(shown)
        assert left <= {"\n"}
    shown.encode()
    # what words are written with is left alone
    for text in ("naïve café", "日本語", "می\u200cخواهم", "👩\u200d🔬", "a\nb"):
        assert printable(text) == text


def test_an_escape_reads_back() -> None:
    assert printable("\x1b[31m") == r"\x1b[31m"
    # two halves of a pair side by side would be read as one character
    value = {"a": re.sub("[\ud800-\udfff]", "", EVERY), "b": ["\x9b", "\ud800"]}
    text = printable_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value and "\x9b" not in text


def test_a_line_is_one_line() -> None:
    assert one_line("a\n\tb\r\n c") == "a b c"
    assert one_line("x" * 400) == "x" * 300 + "…"
    assert one_line(ValueError("x" * 400), None) == "x" * 400


@pytest.mark.parametrize("part", range(3))
def test_every_part_of_an_error(part: int) -> None:
    parts = ["where", "problem", "fix"]
    parts[part] = "a\x1b[2Jb"
    assert "a\\x1b[2Jb" in str(InputError(*parts)).lower().replace("j", "J")


def test_settings_that_say_nothing_are_left_out() -> None:
    said = listed({"kind": "chat", "eos": None, "bos": 0, "layout": "a\x1b\nb", "extra": {}})
    assert said == r"kind chat, bos 0, layout a\x1b b"
