"""What is trained on: token ids of one text or of the two sides of a pair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Example"]


@dataclass(frozen=True, slots=True)
class Example:
    """One item of the training data.

    Args:
        rows: int32 ids (T,) of each text; of a pair, chosen and then rejected.
        id: of the pair it came from, for messages.
        loss_from: for language-model losses: per row the first token that counts.
        margin: by how much the chosen side should win.
    """

    rows: tuple[np.ndarray, ...]
    id: str = ""
    loss_from: tuple[int, ...] = ()
    margin: float = 0.0

    @property
    def tokens(self) -> int:
        """Real tokens: no padding, a shared beginning counted in each row."""
        return sum(len(row) for row in self.rows)

    @property
    def longest(self) -> int:
        return max(len(row) for row in self.rows)

    @property
    def packed(self) -> int:
        """Tokens when what a pair's sides have in common at the start is computed once."""
        return self.tokens - shared_beginning(self.rows)


def shared_beginning(rows: tuple[np.ndarray, ...]) -> int:
    if len(rows) != 2:
        return 0
    size = min(map(len, rows))
    different = np.flatnonzero(rows[0][:size] != rows[1][:size])
    return int(different[0]) if len(different) else size
