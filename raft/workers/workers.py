"""What runs in worker processes, as plain classes: nothing here knows where it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rollout.engines.base import build_engine
from rollout.engines.environment import quiet_libraries
from rollout.types import Group, Prompt, Sampling, StaleWeightsError

# groups go back in small parcels: often enough to keep scoring busy, seldom enough to cost nothing
_PARCEL_GROUPS = 16
_PARCEL_SECONDS = 0.2


class RolloutWorker:
    """One generation engine. Refuses to draw under another policy version than asked for."""

    def __init__(self, **engine: Any) -> None:
        quiet_libraries()
        self._engine, self._choice = build_engine(**engine)

    def describe(self) -> str:
        """The engine and why it was chosen."""
        return f"{self._choice.name} ({self._choice.reason})"

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seed: int,
        seed_per_prompt: bool,
        version: int,
    ) -> Iterator[list[Group]]:
        if self._engine.version != version:
            raise StaleWeightsError(
                f"asked for policy version {version}, this engine holds {self._engine.version}"
            )
        parcel: list[Group] = []
        sent = time.monotonic()
        for group in self._engine.generate(
            prompts, sampling, seed, seed_per_prompt=seed_per_prompt
        ):
            parcel.append(group)
            if len(parcel) >= _PARCEL_GROUPS or time.monotonic() - sent > _PARCEL_SECONDS:
                yield parcel
                parcel, sent = [], time.monotonic()
        if parcel:
            yield parcel

    def load_weights(self, path: str, version: int) -> None:
        self._engine.load_weights(path, version)

    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        return self._engine.log_probs(token_ids)

    def sleep(self) -> None:
        self._engine.sleep()

    def wake(self) -> None:
        self._engine.wake()


@dataclass(frozen=True, slots=True)
class GroupScores:
    """Of one group: reward name -> K scores (None = missing), and where a tournament was held,
    [[i, j, P(response i is better than j)], …]."""

    scores: dict[str, list[float | None]]
    comparisons: list[list[int | float]] | None = None


class RewardWorker:
    """The rewards of a run by name ("reward", "gold"), each built from plain arguments."""

    def __init__(self, rewards: dict[str, dict[str, Any]]) -> None:
        quiet_libraries()
        from rewards.build import build_reward

        self._rewards = {name: build_reward(**arguments) for name, arguments in rewards.items()}

    def score(
        self, groups: Sequence[Group], names: Sequence[str]
    ) -> tuple[list[GroupScores], float, dict[str, Any]]:
        """Scores per group; the seconds it took; what judges among the rewards have to report."""
        start = time.monotonic()
        by_name = {name: self._rewards[name].score_groups(groups) for name in names}
        compared = self._comparisons() if "reward" in names else {}
        scored = [
            GroupScores(
                {name: values[position] for name, values in by_name.items()},
                compared.get(group.prompt.id),
            )
            for position, group in enumerate(groups)
        ]
        return scored, time.monotonic() - start, self._reports(names)

    def _comparisons(self) -> dict[str, list[Any]]:
        """Of the reward that selects, by prompt id."""
        ask = getattr(self._rewards["reward"], "comparisons", None)
        return ask() if ask is not None else {}

    def _reports(self, names: Sequence[str]) -> dict[str, Any]:
        judges = {name: getattr(self._rewards[name], "take_report", None) for name in names}
        reports = {name: take() for name, take in judges.items() if take is not None}
        return {name: report for name, report in reports.items() if report is not None}

    def sleep(self) -> None:
        self._move("cpu")

    def wake(self) -> None:
        self._move("cuda")

    def _move(self, device: str) -> None:
        """Reward models give their GPU to the trainer and take it back; functions have none."""
        for reward in self._rewards.values():
            move = getattr(reward, "to", None)
            if move is not None:
                move(device)
