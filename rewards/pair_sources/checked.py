"""The one place where a pair is made: every converter's pairs pass the same checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rewards.pair_sources.record import Outcome, Record, Refusal
from rewards.pairs import Pair
from rollout.types import Message

__all__ = ["checked_pair", "prompt_refusal"]


def checked_pair(
    record: Record,
    prompt: Sequence[Message],
    chosen: str,
    rejected: str,
    *,
    suffix: str = "",
    source: str | None = None,
    margin: float | None = None,
    labels: Mapping[str, Mapping[str, float]] | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Outcome:
    """A pair, or why a reward model could learn nothing from it.

    Sides that differ in surrounding blanks alone count as identical.
    """
    if refusal := prompt_refusal(prompt):
        return refusal
    if not chosen.strip() or not rejected.strip():
        return Refusal("empty reply")
    if chosen.strip() == rejected.strip():
        return Refusal("identical sides")
    return Pair(
        id=record.id + suffix,
        prompt=tuple(prompt),
        chosen=chosen,
        rejected=rejected,
        margin=margin,
        source=record.source if source is None else source,
        labels=labels or {},
        fields=fields or {},
    )


def prompt_refusal(prompt: Sequence[Message]) -> Refusal | None:
    """Why these messages are nothing to answer; None where they are."""
    if not any(message["role"] == "user" for message in prompt):
        return Refusal("no user turn")
    if prompt[-1]["role"] != "user":
        return Refusal("prompt does not end with the user")
    if not any(m["content"].strip() for m in prompt if m["role"] == "user"):
        return Refusal("empty prompt")
    return None
