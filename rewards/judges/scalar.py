"""`ScalarJudge`: a reward that scores, as a judge that compares."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from rewards.judges.judge import check_temperature
from rewards.tournament.verdicts import Verdicts
from rewards.types import Comparison, Reward
from rollout.data.pools import prompt_key
from rollout.types import Completion, Group, Message, Prompt

__all__ = ["ScalarJudge"]


class ScalarJudge:
    """P(first is better) = σ((r_first − r_second) / temperature) (Bradley and Terry 1952).

    No order is preferred and no verdicts contradict each other, so that a tournament costs
    comparisons and tells no more than the scores do: this class is for callers that need a judge.
    Each response to a prompt is scored once per call; `forward_passes` counts these.
    """

    kind = "scalar"

    def __init__(self, reward: Reward, *, temperature: float = 1.0) -> None:
        check_temperature(temperature)
        self.reward = reward
        self.name = str(getattr(reward, "name", None) or type(reward).__name__)
        self.temperature = temperature
        self.forward_passes = 0

    def compare(self, comparisons: Sequence[Comparison]) -> np.ndarray:
        """Return P(first is better) of N comparisons, float64 (N,) in order; NaN where a score is
        missing. Raises what the reward raises."""
        return self.verdicts(comparisons).probability_N

    def verdicts(
        self, comparisons: Sequence[Comparison], names: Sequence[str] | None = None
    ) -> Verdicts:
        """Return what `compare` does, with margins; position bias is 0. `names` are for errors."""
        asked = _Responses()
        if names is None:
            names = [f"comparison {index}" for index in range(len(comparisons))]
        places = [
            (asked.place(one.prompt, one.first, name), asked.place(one.prompt, one.second, name))
            for one, name in zip(comparisons, names, strict=True)
        ]
        groups = asked.groups()
        self.forward_passes += sum(len(group.completions) for group in groups)
        scores = self.reward.score_groups(groups) if groups else []
        pairs = [[scores[group][at] for group, at in pair] for pair in places]
        values_N2 = np.array(pairs, dtype=np.float64).reshape(-1, 2)  # a missing score is NaN
        log_odds_N = (values_N2[:, 0] - values_N2[:, 1]) / self.temperature
        return Verdicts.from_log_odds(log_odds_N, -log_odds_N, np.isnan(log_odds_N))

    def to(self, device: str) -> None:
        """Move the model, where the reward has one."""
        move = getattr(self.reward, "to", None)
        if move is not None:
            move(device)

    def describe(self) -> dict[str, object]:
        """Return the settings that a verdict depends on, for a run's records."""
        describe = getattr(self.reward, "describe", None)
        own = {"name": self.name, "temperature": self.temperature}
        return {**(describe() if describe else {}), **own, "judge": self.kind}


class _Responses:
    """Distinct prompts and their distinct responses, in the order they are met."""

    def __init__(self) -> None:
        self._prompts: list[Prompt] = []
        self._texts: list[dict[str, int]] = []
        self._numbers: dict[Hashable, int] = {}

    def place(self, prompt: Sequence[Message] | str, response: str, name: str) -> tuple[int, int]:
        """Return (number of the prompt, number of the response among its responses).

        Both are added where they are new; a new prompt is called `name`.
        """
        content = prompt if isinstance(prompt, str) else tuple(prompt)
        number = self._numbers.setdefault(prompt_key(prompt), len(self._prompts))
        if number == len(self._prompts):
            self._prompts.append(Prompt(name, content))
            self._texts.append({})
        texts = self._texts[number]
        return number, texts.setdefault(response, len(texts))

    def groups(self) -> list[Group]:
        return [
            Group(prompt, tuple(Completion(text, (), "stop") for text in texts), policy_version=0)
            for prompt, texts in zip(self._prompts, self._texts, strict=True)
        ]
