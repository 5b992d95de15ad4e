"""The documents name tests and files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = [
    (page.name, *found)
    for page in sorted((ROOT / "docs").glob("*.md"))
    for found in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text(encoding="utf-8"))
]
FILES = sorted(
    {
        file
        for page in (ROOT / "docs").glob("*.md")
        for file in re.findall(r"`(tests/[\w/]+\.py)", page.read_text(encoding="utf-8"))
    }
)


def test_tests_are_named() -> None:
    assert len(NAMED) >= 10


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_a_document_names_exists(file: str) -> None:
    assert (ROOT / file).is_file()


@pytest.mark.parametrize(("page", "file", "name"), NAMED)
def test_a_test_that_a_document_names_exists(page: str, file: str, name: str) -> None:
    assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE)
