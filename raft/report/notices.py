"""What a report cannot show: said once in the log, and again at the top of the page."""

from __future__ import annotations

import logging

log = logging.getLogger("raft.report")


class Notices:
    """Lines in the order in which they came up, each once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, text: str) -> None:
        if text not in self.texts:
            self.texts.append(text)
            log.warning(text)
