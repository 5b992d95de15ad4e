"""The entrants of a prompt's tournament: equal responses are one entrant."""

from __future__ import annotations

from dataclasses import dataclass

from rewards.types import Comparison
from rollout.types import Group, Message, judged_sides

__all__ = ["Entrants", "Named"]

# a comparison, and its name for error messages
Named = tuple[Comparison, str]


@dataclass(frozen=True, slots=True)
class Entrants:
    """A group's distinct texts, and the number of each response's among them.

    Args:
        turns: what all responses come after.
        texts: one per entrant.
        entrants: (K,), the entrant that each response is.
    """

    id: str
    turns: tuple[Message, ...]
    texts: tuple[str, ...]
    entrants: tuple[int, ...]

    @classmethod
    def of(cls, group: Group) -> Entrants:
        places: dict[str, int] = {}
        turns, texts = judged_sides(group)
        entrants = [places.setdefault(text, len(places)) for text in texts]
        return cls(group.prompt.id, turns, tuple(places), tuple(entrants))

    def match(self, first: int, second: int) -> Named:
        """Return two entrants as a comparison, with its name for error messages."""
        i, j = self.entrants.index(first), self.entrants.index(second)
        name = f"responses {i} and {j} of prompt {self.id!r}"
        return Comparison(self.turns, self.texts[first], self.texts[second]), name
