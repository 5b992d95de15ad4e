"""A reader of reports: what is seen of a page, and heard of what should not happen in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LAPTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


class Reader:
    """Opens pages and hears of everything that should not happen in one."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.opened = 0

    def open(self, page: Path, viewport: dict[str, int] = LAPTOP, **options: Any) -> Any:
        context = self._browser.new_context(viewport=viewport, **options)
        tab = context.new_page()
        tab.set_default_timeout(20_000)
        tab.on("console", lambda message: self.complaints.append(message.text))
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        tab.on("request", lambda request: self.requests.append(request.url))
        tab.goto(page.as_uri())
        self.opened += 1
        return tab


def samples(tab: Any) -> None:
    """Go where the samples are."""
    tab.locator("#samples").scroll_into_view_if_needed()
    tab.wait_for_selector("#detail .sample")


def listed(tab: Any, text: str) -> None:
    tab.wait_for_function(
        "text => document.getElementById('status').textContent === text", arg=text
    )
