"""vLLM's `/classify` and `/pooling`, asked for raw logits, and the check that they are raw.

Fields as in vLLM 0.32, vllm/entrypoints/pooling/{classify,pooling}/protocol.py: a request has
`model`, `input` (texts, or lists of token ids) and `use_activation`; unknown fields are ignored, so
a server that does not know `use_activation` answers probabilities as if nothing had been asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rewards.encoding.formats import Scorable
from rewards.remote.protocols import Item, check_model, entry, read_numbers
from rewards.remote.texts import Texts
from rewards.types import RewardError

__all__ = ["VLLM", "RawCheck"]

# route -> where an answer has its numbers, and what a request says besides
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "/classify": ("probs", {}),
    "/pooling": ("data", {"task": "classify", "encoding_format": "float"}),
}


class VLLM:
    """One of the two routes. `activation` asks for probabilities, which only `RawCheck` wants."""

    def __init__(
        self, route: str, texts: Texts, model: str | None = None, *, activation: bool = False
    ) -> None:
        self.route = route
        self.texts = texts
        self.model = model
        self.activation = activation
        self._key, self._extra = FORMS[route]

    def items(
        self, conversations: Sequence[Scorable], names: Sequence[str], labels: Sequence[Any]
    ) -> list[Item]:
        inputs = self.texts.inputs(conversations, names)
        return [Item(one, name) for one, name in zip(inputs, names, strict=True)]

    def encode(self, items: Sequence[Item]) -> dict[str, Any]:
        body = {
            "input": [item.content for item in items],
            "use_activation": self.activation,
            **self._extra,
        }
        return body if self.model is None else {**body, "model": self.model}

    def decode(self, answer: Any, items: Sequence[Item]) -> list[float | None]:
        check_model(answer, self.model)
        rows = _in_order(entry(answer, "data"), len(items))
        return [self._logit(row) for row in rows]

    def activated(self) -> VLLM:
        """The same, asking for probabilities."""
        return VLLM(self.route, self.texts, self.model, activation=True)

    def _logit(self, row: dict[str, Any]) -> float | None:
        values = entry(row, self._key)
        if isinstance(values, list) and len(values) == 1 and not isinstance(values[0], list):
            return read_numbers(values, 1, self._key)[0]
        if isinstance(values, list) and values and isinstance(values[0], list):
            raise RewardError("it answers one output per token: it serves no sequence classifier")
        size = len(values) if isinstance(values, list) else "no list of"
        raise RewardError(f"its model has {size} outputs: a reward model has one")


class RawCheck:
    """Proof that a server's numbers are logits: one outside [0, 1], or a changed one when asked.

    Where all scores lie in [0, 1], one of them is asked for again with the activation on.
    """

    def __init__(self) -> None:
        self.proven = False

    def doubtful(self, values: Sequence[float | None]) -> int | None:
        """The index of the score to ask for again; None when there is no doubt."""
        known = [value for value in values if value is not None and not math.isnan(value)]
        self.proven = self.proven or any(not 0 <= value <= 1 for value in known)
        if self.proven or not known:
            return None
        moves = [0.0 if v is None or math.isnan(v) else abs(_sigmoid(v) - v) for v in values]
        index = max(range(len(moves)), key=moves.__getitem__)
        # 0.66 is its own sigmoid and proves nothing either way; a later call will
        return index if moves[index] > 0.01 else None

    def settle(self, value: float, activated: float | None) -> None:
        """Raises `RewardError` when asking for the activation changed nothing."""
        if activated is None or abs(activated - value) < abs(activated - _sigmoid(value)):
            raise RewardError(
                f"it answers {value:.6g} with and without use_activation, so this looks like a "
                "probability: raw logits are needed: serve with "
                "--pooler-config '{\"use_activation\": false}'; if the numbers are the model's "
                "own outputs all the same, set assume_raw"
            )
        self.proven = True


def _in_order(rows: Any, expected: int) -> list[dict[str, Any]]:
    """The entries by their `index`, each exactly once."""
    if not isinstance(rows, list) or len(rows) != expected:
        size = len(rows) if isinstance(rows, list) else "no"
        raise RewardError(f'"data" has {size} entries where {expected} were asked for')
    ordered = sorted(rows, key=_index)
    if [_index(row) for row in ordered] != list(range(expected)):
        raise RewardError('the entries of "data" are not numbered 0, 1, …')
    return ordered


def _index(row: Any) -> int:
    index = entry(row, "index")
    return index if type(index) is int else -1


def _sigmoid(value: float) -> float:
    from scipy.special import expit

    return float(expit(value))
