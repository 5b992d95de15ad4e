"""A bar with the time that is left on a terminal; elsewhere a line for each stage that is long."""

from __future__ import annotations

import logging
import time
from typing import NoReturn

log = logging.getLogger("rollout")

# a stage that is over sooner needs no line
_LONG = 2.0


class Progress:
    """Counts finished items on stderr while the block runs; says at the end how long it took, where
    there was no bar to see."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        from tqdm import tqdm

        # disable=None: where stderr is no terminal, tqdm writes nothing
        self._bar: tqdm[NoReturn] = tqdm(
            total=total, initial=done, desc=title, unit=" prompts", leave=False, disable=None
        )
        self._title, self._count, self._began = title, 0, time.monotonic()

    def advance(self, count: int = 1) -> None:
        self._count += count
        self._bar.update(count)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        unseen = self._bar.disable  # closed bars say so too
        self._bar.close()
        seconds = time.monotonic() - self._began
        if unseen and kind is None and seconds >= _LONG:
            log.info("%s: %d in %.1f s", self._title, self._count, seconds)
