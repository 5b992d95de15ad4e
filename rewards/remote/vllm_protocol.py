"""Ask vLLM's `/classify` and `/pooling` for raw logits, and check that they are raw.

Fields as in vLLM 0.32, vllm/entrypoints/pooling/{classify,pooling}/protocol.py: a request has
`model`, `input` (texts, or lists of token ids) and `use_activation`; unknown fields are ignored, so
a server that does not know `use_activation` answers probabilities as if nothing had been asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rewards.encoding.formats import Scorable
from rewards.remote.messages import VLLMAnswer, VLLMRow, check_count, check_model, read_answer
from rewards.remote.protocols import Item
from rewards.remote.texts import Texts
from rewards.types import RewardError

__all__ = ["VLLM", "RawCheck"]

# route -> further fields of a request
FORMS: dict[str, dict[str, str]] = {
    "/classify": {},
    "/pooling": {"task": "classify", "encoding_format": "float"},
}


class VLLM:
    """One of vLLM's two routes. `activation` asks for probabilities, for `RawCheck` alone."""

    def __init__(
        self, route: str, texts: Texts, model: str | None = None, *, activation: bool = False
    ) -> None:
        self.route = route
        self.texts = texts
        self.model = model
        self.activation = activation

    def items(
        self, conversations: Sequence[Scorable], names: Sequence[str], labels: Sequence[object]
    ) -> list[Item]:
        inputs = self.texts.inputs(conversations, names)
        return [Item(one, name) for one, name in zip(inputs, names, strict=True)]

    def encode(self, items: Sequence[Item]) -> dict[str, object]:
        body: dict[str, object] = {
            "input": [item.content for item in items],
            "use_activation": self.activation,
            **FORMS[self.route],
        }
        return body if self.model is None else {**body, "model": self.model}

    def decode(self, answer: object, items: Sequence[Item]) -> list[float | None]:
        found = read_answer(VLLMAnswer, answer)
        check_model(found.model, self.model)
        return [_logit(row) for row in _in_order(found.data, len(items))]

    def activated(self) -> VLLM:
        """Return the same protocol, asking for probabilities."""
        return VLLM(self.route, self.texts, self.model, activation=True)


class RawCheck:
    """The check that a server's numbers are logits and not probabilities.

    A number outside [0, 1] proves it. Where all scores lie in [0, 1], one of them is asked for
    again with the activation on, and must change.
    """

    def __init__(self) -> None:
        self.proven = False

    def doubtful(self, values: Sequence[float | None]) -> int | None:
        """Return the index of the score to ask for again; None if none is in doubt or can tell."""
        known = [value for value in values if value is not None and not math.isnan(value)]
        self.proven = self.proven or any(not 0 <= value <= 1 for value in known)
        if self.proven or not known:
            return None
        moves = [0.0 if v is None or math.isnan(v) else abs(_sigmoid(v) - v) for v in values]
        index = max(range(len(moves)), key=moves.__getitem__)
        # 0.66 is its own sigmoid and proves nothing either way; a later call has other scores
        return index if moves[index] > 0.01 else None

    def settle(self, value: float, activated: float | None) -> None:
        """Check that asking for the activation changed the score. Raises `RewardError` if not."""
        if activated is None or abs(activated - value) < abs(activated - _sigmoid(value)):
            raise RewardError(
                f"it answers {value:.6g} with and without use_activation, so this looks like a "
                "probability: raw logits are needed: serve with "
                "--pooler-config '{\"use_activation\": false}'; if the numbers are the model's "
                "own outputs all the same, set assume_raw"
            )
        self.proven = True


def _logit(row: VLLMRow) -> float | None:
    """Return the one output of a reward model; None where it is null.

    Raises `RewardError` for another number of outputs, or outputs per token.
    """
    if row.values and isinstance(row.values[0], list):
        raise RewardError("it answers one output per token: it serves no sequence classifier")
    if len(row.values) != 1:
        raise RewardError(f"its model has {len(row.values)} outputs: a reward model has one")
    (value,) = row.values
    return None if isinstance(value, list) else value


def _in_order(rows: Sequence[VLLMRow], expected: int) -> list[VLLMRow]:
    """Return the rows in the order of `index`. Raises `RewardError` unless each occurs once."""
    check_count(len(rows), expected, "data")
    ordered = sorted(rows, key=lambda row: row.index)
    if [row.index for row in ordered] != list(range(expected)):
        raise RewardError('the entries of "data" are not numbered 0, 1, …')
    return ordered


def _sigmoid(value: float) -> float:
    from scipy.special import expit

    return float(expit(value))
