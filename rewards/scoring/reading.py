"""Whether a reward model can read a row, known from its tokenizer before its weights are loaded."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from rewards.spec import ModelSpec, RewardSpec
from rewards.types import RewardError
from rollout.data.scored_rows import ScoreRow
from rollout.errors import InputError
from rollout.types import conversation

if TYPE_CHECKING:
    from rewards.encoding.encoder import Encoder

__all__ = ["Reading"]


class Reading:
    """Asks the reward models among the parts of a reward: their chat templates refuse some roles,
    and with `length`, whether something of each response is left within their `max_length`."""

    def __init__(self, reward: RewardSpec, *, length: bool) -> None:
        self._specs = [part for part in reward.parts() if isinstance(part, ModelSpec)]
        self._length = length

    def check(self, row: ScoreRow) -> None:
        """Raises InputError that begins with the row's place."""
        for encoder in self._encoders:
            for group in row.groups:
                for one in group.completions:
                    try:
                        encoder.check(conversation(group.prompt, one), length=self._length)
                    except (InputError, RewardError) as error:
                        raise InputError(row.where, error) from error

    @cached_property
    def _encoders(self) -> list[Encoder]:
        if not self._specs:
            return []
        from rewards.models.load import load_encoder

        return [load_encoder(spec) for spec in self._specs]
