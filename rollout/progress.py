"""A bar on a terminal, nothing elsewhere: plain log lines say there what happens."""

from __future__ import annotations

from typing import NoReturn


class Progress:
    """Counts finished items on stderr while the block runs."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        from tqdm import tqdm

        # disable=None: where stderr is no terminal, tqdm writes nothing
        self._bar: tqdm[NoReturn] = tqdm(
            total=total, initial=done, desc=title, unit="prompt", leave=False, disable=None
        )

    def advance(self, count: int = 1) -> None:
        self._bar.update(count)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
