"""A reward model that scores conversations, of whatever family and on whatever engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rewards.encoding.encoder import Encoder
from rewards.encoding.formats import Scorable, name_conversations
from rewards.inference.engine import Engine, Outputs
from rewards.types import NonFinite, Scores, check_non_finite, finite_or_missing
from rollout.types import Group, conversation

__all__ = ["ModelReward"]


class ModelReward:
    """Turns conversations into raw scores: no sigmoid, and no scaling but the checkpoint's own.

    Args:
        encoder: how conversations become token ids.
        engine: how token ids become outputs, "score" (N,) among them.
        name: for messages.
        kind: the family, for messages and records.
        non_finite: "raise", or "missing", which makes scores of NaN or infinity missing ones.
    """

    def __init__(
        self,
        encoder: Encoder,
        engine: Engine,
        *,
        name: str,
        kind: str,
        non_finite: NonFinite = "raise",
    ) -> None:
        check_non_finite(non_finite)
        self.encoder = encoder
        self.engine = engine
        self.name = name
        self.kind = kind
        self.non_finite: NonFinite = non_finite

    def score(self, conversations: Sequence[Scorable]) -> np.ndarray:
        """Return the scores of N conversations or plain texts, float32 (N,) in order.

        Raises `InputError` for a conversation that does not fit the format, `RewardError` for a
        score that is not finite; with `non_finite="missing"` that score is NaN.
        """
        return self.score_details(conversations)["score"]

    def score_details(self, conversations: Sequence[Scorable]) -> Outputs:
        """Return "score", as `score` does, with all other outputs of the family: those of ArmoRM
        are `rewards`, `gating` and `coefficients` (N, K), and the K names in `attributes` (K,)."""
        names = name_conversations(conversations)
        found, attributes = self._outputs(conversations, names), self.describe().get("attributes")
        return found if attributes is None else {**found, "attributes": np.asarray(attributes)}

    def score_groups(self, groups: Sequence[Group]) -> Scores:
        """Return one list of K scores per group, in order; None is a missing score.

        Raises as `score` does, naming the prompt.
        """
        samples = [(group.prompt, one) for group in groups for one in group.completions]
        names = [f"prompt {prompt.id!r}" for prompt, _ in samples]
        conversations = [conversation(prompt, one) for prompt, one in samples]
        flat = iter(self._outputs(conversations, names)["score"].tolist())
        return [[_or_none(next(flat)) for _ in group.completions] for group in groups]

    def to(self, device: str) -> None:
        """Move the model, for a GPU that is shared in turn."""
        self.engine.to(device)

    def describe(self) -> dict[str, object]:
        """Return the settings that a score depends on, for a run's records."""
        return {
            "name": self.name,
            "kind": self.kind,
            **self.encoder.describe(),
            **self.engine.describe(),
        }

    def _outputs(self, conversations: Sequence[Scorable], names: Sequence[str]) -> Outputs:
        if not conversations:
            return {"score": np.zeros(0, dtype=np.float32)}
        outputs = self._run_distinct(self.encoder.encode(conversations, names), names)
        source = f"reward model {self.name}"
        for value, where in zip(outputs["score"].tolist(), names, strict=True):
            finite_or_missing(value, source=source, where=where, non_finite=self.non_finite)
        # where the score is not finite, all other outputs of that row are missing too
        lost_N = ~np.isfinite(outputs["score"])
        for values in outputs.values():
            values[lost_N] = np.nan
        return outputs

    def _run_distinct(self, rows: Sequence[Sequence[int]], names: Sequence[str]) -> Outputs:
        """Return the engine's outputs of N rows; equal rows are computed once.

        So their scores are equal to the last digit.
        """
        first: dict[tuple[int, ...], int] = {}
        number_N = [first.setdefault(tuple(row), len(first)) for row in rows]
        places = {number: at for at, number in reversed(list(enumerate(number_N)))}
        distinct = [places[number] for number in range(len(first))]
        outputs = self.engine.run([rows[at] for at in distinct], [names[at] for at in distinct])
        return {name: values[number_N] for name, values in outputs.items()}


def _or_none(score: float) -> float | None:
    return None if np.isnan(score) else score
