"""Read single responses with ratings of attributes, for multi-objective regression.

Attributes have ArmoRM's names (Wang et al. 2024, arXiv 2406.12845) and labels lie in [0, 1]. On a
scale of `levels` steps from `lowest`, a rating becomes the middle of its step:

    label = (rating − lowest + ½) / levels

ArmoRM's card states this for HelpSteer (0 to 4, so (r + ½) / 5). The card states no rule for
UltraFeedback; the same one is used there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rewards.data.dialogue import assistant, messages, user
from rewards.data.record import Record, Refusal, prompt_refusal
from rollout.types import Message

__all__ = ["Rated", "RatedOutcome", "Scale", "generic_rated", "rated"]

# the first part of the names of ArmoRM's 19 attributes
_PREFIXES = ("helpsteer-", "ultrafeedback-", "beavertails-", "prometheus-", "argilla-", "code-")


@dataclass(frozen=True, slots=True)
class Rated:
    """A conversation that ends with the assistant, and its known labels by attribute."""

    conversation: Sequence[Message]
    labels: Mapping[str, float]
    id: str = ""
    source: str = ""


RatedOutcome = Rated | Refusal


@dataclass(frozen=True, slots=True)
class Scale:
    """A scale of ratings: `levels` values, one apart, from `lowest` on."""

    lowest: float
    levels: int

    def label(self, record: Record, value: object, name: str) -> dict[str, float]:
        """Return {name: label}, empty where there is no rating.

        The label is (rating − lowest + ½) / levels, outside [0, 1] for a rating outside the scale.
        """
        rating = record.as_number(value, name)
        if rating is None:
            return {}
        return {name: (rating - self.lowest + 0.5) / self.levels}


def rated(
    record: Record,
    prompt: Sequence[Message],
    response: str | Message,
    labels: Mapping[str, float],
    suffix: str = "",
) -> RatedOutcome:
    """Return the rated response, or a `Refusal` saying why it is none.

    Every converter calls this, so that all rated responses pass the same checks.
    """
    if refusal := prompt_refusal(prompt):
        return refusal
    said = assistant(response) if isinstance(response, str) else response
    if not said["content"].strip() and "tool_calls" not in said:
        return Refusal("empty reply")
    if not labels:
        return Refusal("no rating")
    conversation = (*prompt, said)
    return Rated(conversation, labels, record.id + suffix, record.source)


def generic_rated(record: Record) -> list[RatedOutcome]:
    """Return the rated response of a row with `messages`, or `prompt` and `response`.

    Beside them stands `labels` {attribute: number or null}. Without it, the columns with ArmoRM's
    names are the labels (RLHFlow/ArmoRM-Multi-Objective-Data: `messages` and 19 columns).
    """
    columns = record.columns
    if "messages" in columns:
        dialogue = messages(record, columns["messages"], "messages")
        if not dialogue or dialogue[-1]["role"] != "assistant":
            return [Refusal("last message not the assistant's")]
        prompt, response = dialogue[:-1], dialogue[-1]
    else:
        asked = record.get("prompt")
        prompt = [user(asked)] if isinstance(asked, str) else messages(record, asked, "prompt")
        response = record.text("response")
    return [rated(record, prompt, response, _labels(record))]


def _labels(record: Record) -> dict[str, float]:
    given = record.columns.get("labels")
    if given is None:
        given = {key: v for key, v in record.columns.items() if key.startswith(_PREFIXES)}
    found = {}
    for name, value in record.as_object(given, "labels").items():
        # BeaverTails says true or false: safe is 1
        label = float(value) if isinstance(value, bool) else record.as_number(value, name)
        if label is not None:
            found[name] = label
    return found
