"""Progress of a stage: a bar with the time left on a terminal, elsewhere a line if it was long."""

from __future__ import annotations

import logging
import time
from typing import NoReturn

log = logging.getLogger("rollout")

# seconds; a shorter stage gets no line in the log
_LONG = 2.0


class Progress:
    """A progress bar on stderr, as a context manager around a stage.

    Where stderr is no terminal there is no bar: a stage of two seconds or more, unless it failed,
    is then logged at its end with its count and duration.
    """

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
        unseen = self._bar.disable  # read before `close`, which sets it
        self._bar.close()
        seconds = time.monotonic() - self._began
        if unseen and kind is None and seconds >= _LONG:
            log.info("%s: %d in %.1f s", self._title, self._count, seconds)
