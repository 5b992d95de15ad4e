"""Where drawn samples and their scores live: two append logs while a stage runs, one file after.

`NAME.jsonl` (one row per prompt, in prompt order) appears when every prompt is drawn and scored.
Until then `.NAME.samples` and `.NAME.scores` hold what is there, so a killed run goes on from the
last sample. Rows stream: memory holds ids and offsets only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from rollout.data.jsonl import is_object
from rollout.data.samples import COMPARISONS, REWARD, Comparison, SampleRow, Scores, read_samples
from rollout.storage.append_log import AppendLog
from rollout.storage.files import write_rows
from rollout.types import Group, InputError, Prompt, StaleWeightsError


class RolloutStore:
    """The samples and scores of one stage: a fixed list of prompts under one policy version.

    The final rows keep those columns of the prompts that `fields` names.

    Raises:
        InputError: what an interrupted run left there does not belong to these prompts.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        prompts: Sequence[Prompt],
        version: int,
        *,
        fields: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.jsonl"
        self._prompts = {prompt.id: prompt for prompt in prompts}
        self._version = version
        self._fields = fields
        self._samples_path = folder / f".{name}.samples"
        self._scores_path = folder / f".{name}.scores"
        if not self.complete:
            self._samples = AppendLog(self._samples_path)
            self._scores = AppendLog(self._scores_path)
            self._check_leftovers()

    @property
    def complete(self) -> bool:
        return self.path.exists()

    def undrawn(self) -> list[Prompt]:
        return [p for key, p in self._prompts.items() if key not in self._samples]

    def unscored(self) -> list[str]:
        """The ids of groups drawn before an interruption and not scored yet."""
        return [key for key in self._samples.ids() if key not in self._scores]

    def group(self, prompt_id: str) -> Group:
        """A stored group, read back."""
        return self._drawn(prompt_id).group(self._prompts[prompt_id])

    def add_samples(self, group: Group) -> None:
        if group.policy_version != self._version:
            raise StaleWeightsError(
                f"{self.path.name}: prompt {group.prompt.id} was drawn by policy version "
                f"{group.policy_version}, this file is of version {self._version}"
            )
        self._samples.append(SampleRow.of_group(group).to_json())

    def add_scores(
        self,
        prompt_id: str,
        scores: Mapping[str, Scores],
        comparisons: Sequence[Sequence[int | float | None]] | None = None,
    ) -> None:
        """Store what each reward, by its name, and a tournament, if any, say of a group."""
        row = {"id": prompt_id, "scores": scores}
        self._scores.append(row if comparisons is None else {**row, COMPARISONS: comparisons})

    def finish(self) -> None:
        """Join samples and scores in prompt order into the final file; then drop the logs."""
        write_rows(self.path, (self._joined(prompt).to_json() for prompt in self._prompts.values()))
        self._samples.delete()
        self._scores.delete()

    def discard(self) -> None:
        """Forget the finished rows: they are not what they were taken for."""
        self.path.unlink()

    def rows(self) -> Iterator[SampleRow]:
        """The finished rows, in prompt order. Raises InputError for a damaged one."""
        return read_samples(self.path)

    def drop_leftovers(self) -> None:
        """A kill between rename and deletion leaves logs that no longer matter."""
        for path in (self._samples_path, self._scores_path):
            path.unlink(missing_ok=True)

    def _drawn(self, prompt_id: str) -> SampleRow:
        return SampleRow.from_json(self._samples.read(prompt_id), str(self._samples_path))

    def _joined(self, prompt: Prompt) -> SampleRow:
        found = self._scores.read(prompt.id)
        by_reward = found["scores"] if is_object(found["scores"]) else {}
        return replace(
            self._drawn(prompt.id),
            prompt=prompt.content if isinstance(prompt.content, str) else list(prompt.content),
            columns={name: prompt.fields[name] for name in self._fields if name in prompt.fields},
            scores={
                REWARD if name == "reward" else f"{name}_scores": cast(Scores, values)
                for name, values in by_reward.items()
            },
            comparisons=cast(list[Comparison] | None, found.get(COMPARISONS)),
            prompt_token_ids=list(prompt.token_ids),
        )

    def _check_leftovers(self) -> None:
        for path, log, known in (
            (self._samples_path, self._samples, self._prompts),
            (self._scores_path, self._scores, self._samples),
        ):
            stray = next((key for key in log.ids() if key not in known), None)
            if stray is not None:
                raise InputError(
                    path,
                    f"row {stray!r} belongs to no prompt drawn here",
                    f"delete {self._samples_path.name} and {self._scores_path.name} to draw "
                    "them again",
                )
