"""A real headless Chromium for the tests of the report; they load this module as a plugin."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from report_reader import Reader

from experiments.bench.report import FLAGS


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium; apt-get install chromium brings it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def reader(chromium: Any) -> Iterator[Reader]:
    found = Reader(chromium)
    yield found
    for context in chromium.contexts:
        context.close()
    assert found.complaints == []
    # the page itself was asked for, and nothing else, however it was used
    assert len(found.requests) == found.opened
    assert all(url.startswith("file://") for url in found.requests)
