"""Where drawn samples and their scores live: two append logs while a stage runs, one file after.

`NAME.jsonl` (one row per prompt, in prompt order) appears when every prompt is drawn and scored.
Until then `.NAME.samples` and `.NAME.scores` hold what is there, so a killed run goes on from the
last sample. Rows stream: memory holds ids and offsets only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rollout.data.fields import COMPARISONS
from rollout.storage.append_log import AppendLog
from rollout.storage.files import read_rows, write_rows
from rollout.types import Completion, Group, InputError, Prompt, StaleWeightsError

Scores = dict[str, list[float | None]]  # reward name -> one score per sample, None = missing


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
        return group_from_row(self._samples.read(prompt_id), self._prompts[prompt_id])

    def add_samples(self, group: Group) -> None:
        if group.policy_version != self._version:
            raise StaleWeightsError(
                f"{self.path.name}: prompt {group.prompt.id} was drawn by policy version "
                f"{group.policy_version}, this file is of version {self._version}"
            )
        self._samples.append(_sample_row(group))

    def add_scores(
        self, prompt_id: str, scores: Scores, comparisons: list[list[int | float]] | None = None
    ) -> None:
        """`comparisons`: [[i, j, P(response i is better than j)], …], of the tournament if any."""
        row = {"id": prompt_id, "scores": scores}
        self._scores.append(row if comparisons is None else {**row, COMPARISONS: comparisons})

    def finish(self) -> None:
        """Join samples and scores in prompt order into the final file; then drop the logs."""
        write_rows(self.path, map(self._final_row, self._prompts.values()))
        self._samples.delete()
        self._scores.delete()

    def rows(self) -> Iterator[dict[str, Any]]:
        return read_rows(self.path)

    def drop_leftovers(self) -> None:
        """A kill between rename and deletion leaves logs that no longer matter."""
        for path in (self._samples_path, self._scores_path):
            path.unlink(missing_ok=True)

    def _final_row(self, prompt: Prompt) -> dict[str, Any]:
        kept = {name: prompt.fields[name] for name in self._fields if name in prompt.fields}
        found = self._scores.read(prompt.id)
        return _final_row(self._samples.read(prompt.id), prompt, kept, found)

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


def group_from_row(row: dict[str, Any], prompt: Prompt) -> Group:
    completions = zip(
        row["responses"], row["token_ids"], row["finish_reasons"], row["seeds"], strict=True
    )
    return Group(
        prompt=prompt,
        completions=tuple(
            Completion(t, tuple(ids), end, seed) for t, ids, end, seed in completions
        ),
        policy_version=row["policy_version"],
    )


def _sample_row(group: Group) -> dict[str, Any]:
    return {
        "id": group.prompt.id,
        "responses": [c.text for c in group.completions],
        "token_ids": [list(c.token_ids) for c in group.completions],
        "finish_reasons": [c.finish_reason for c in group.completions],
        "seeds": [c.seed for c in group.completions],
        "policy_version": group.policy_version,
    }


def _final_row(
    row: dict[str, Any], prompt: Prompt, kept: dict[str, Any], found: dict[str, Any]
) -> dict[str, Any]:
    content = prompt.content if isinstance(prompt.content, str) else list(prompt.content)
    named = {
        "scores" if name == "reward" else f"{name}_scores": values
        for name, values in found["scores"].items()
    }
    if COMPARISONS in found:
        named[COMPARISONS] = found[COMPARISONS]
    return {
        "id": row["id"],
        "prompt": content,
        **kept,
        "responses": row["responses"],
        **named,
        "finish_reasons": row["finish_reasons"],
        "policy_version": row["policy_version"],
        "seeds": row["seeds"],
        "prompt_token_ids": list(prompt.token_ids),
        "token_ids": row["token_ids"],
    }
