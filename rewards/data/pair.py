"""Define a preference pair, for training and for evaluation, without files or models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rollout.types import Message, continued

__all__ = ["Pair"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two responses to one prompt, the first preferred.

    Args:
        id: the id of the row that the pair came from.
        prompt: the messages that both respond to, the last one a user's or a tool's.
        chosen, rejected: the texts of the responses.
        messages: side -> the whole message, where it is more than its text: tool calls.
        margin: by how much `chosen` is better, on the source's own scale; None where unknown.
        source: the data set or subset that the pair came from, for tables.
        labels: ratings of single attributes, per side: {"chosen": {...}, "rejected": {...}}.
        fields: the row's other columns.
    """

    id: str
    prompt: Sequence[Message]
    chosen: str
    rejected: str
    margin: float | None = None
    source: str = ""
    labels: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    fields: Mapping[str, object] = field(default_factory=dict)
    messages: Mapping[str, Message] = field(default_factory=dict)

    def conversation(self, side: str) -> list[Message]:
        """Return the whole conversation, prompt and response, of `side`: "chosen" or "rejected"."""
        response = self.chosen if side == "chosen" else self.rejected
        said = self.messages.get(side) or Message(role="assistant", content=response)
        return continued(self.prompt, said)
