"""The store of drawn samples and their scores: two append logs during a stage, one file after it.

`NAME.jsonl` (one row per prompt, in prompt order) appears when every prompt is drawn and scored.
Until then `.NAME.samples` and `.NAME.scores` hold what is there, so a killed run goes on from the
last sample. Rows stream: memory holds ids and offsets only.

A prompt that is drawn in waves has one row, a part, for each wave in each log. The key of a part is
the prompt's id; where the part does not begin with sample 0, its first sample's number follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

from rollout.data.jsonl import is_object
from rollout.data.samples import COMPARISONS, REWARD, Comparison, SampleRow, Scores, read_samples
from rollout.storage.append_log import AppendLog
from rollout.storage.files import write_rows
from rollout.types import Group, InputError, Prompt, StaleWeightsError

_T = TypeVar("_T")
# separates a prompt's id from the number of a part's first sample
_PART = "\x1f"


def part_key(prompt: Prompt) -> str:
    """Return the key in the logs of the responses to `prompt` that its `samples` name."""
    first = prompt.samples[0] if prompt.samples else 0
    return f"{prompt.id}{_PART}{first}" if first else prompt.id


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
        self.prompts = prompts
        self._prompts = {prompt.id: prompt for prompt in prompts}
        self._parts = dict(self._prompts)  # key -> part; the parts of a prompt are in order
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

    def beginnings(self) -> RolloutStore:
        """Return the store, beside this one, of the beginnings of the same prompts' responses."""
        name = f"{self.path.stem}.beginnings"
        return RolloutStore(self.path.parent, name, self.prompts, self._version)

    def extend(self, parts: Sequence[Prompt]) -> None:
        """Ask for further samples of prompts, which the `samples` of each part name."""
        self._parts |= {part_key(part): part for part in parts}

    def narrow(self, parts: Sequence[Prompt]) -> None:
        """Ask only for the samples that `parts` name: one part for each prompt."""
        self._parts = {part_key(part): part for part in parts}

    def undrawn(self) -> list[Prompt]:
        return [part for key, part in self._parts.items() if key not in self._samples]

    def unscored(self) -> list[str]:
        """Return the keys of stored groups without scores, which an interruption leaves."""
        wanted = (key for key in self._samples.ids() if key in self._parts)
        return [key for key in wanted if key not in self._scores]

    def group(self, key: str) -> Group:
        """Return the stored group with this key."""
        return self._drawn(key).group(self._parts[key])

    def so_far(self) -> Iterator[SampleRow]:
        """Yield a row of each prompt, in order; all that was asked for must be drawn and scored."""
        return (self._joined(prompt_id, keys) for prompt_id, keys in self._keys().items())

    def add_samples(self, group: Group) -> None:
        if group.policy_version != self._version:
            raise StaleWeightsError(
                f"{self.path.name}: prompt {group.prompt.id} was drawn by policy version "
                f"{group.policy_version}, this file is of version {self._version}"
            )
        row = replace(SampleRow.of_group(group), id=part_key(group.prompt))
        self._samples.append(row.to_json())

    def add_scores(
        self,
        key: str,
        scores: Mapping[str, Scores],
        comparisons: Sequence[Sequence[int | float | None]] | None = None,
    ) -> None:
        """Store a group's scores by the name of the reward, and a tournament's comparisons."""
        row = {"id": key, "scores": scores}
        self._scores.append(row if comparisons is None else {**row, COMPARISONS: comparisons})

    def finish(self) -> None:
        """Join samples and scores in prompt order into the final file, then delete the logs."""
        write_rows(self.path, (row.to_json() for row in self.so_far()))
        self._samples.delete()
        self._scores.delete()

    def discard(self) -> None:
        """Delete the finished rows, as where the engine that drew them held another policy."""
        self.path.unlink()

    def rows(self) -> Iterator[SampleRow]:
        """Yield the finished rows, in prompt order.

        Raises InputError for a damaged row, and at the end where a prompt has no row.
        """
        count = 0
        for row in read_samples(self.path):
            count += row.id in self._prompts
            yield row
        if count != len(self._prompts):
            problem = f"has rows for {count} of {len(self._prompts)} prompts"
            raise InputError(self.path, problem, "restore it, or delete it to draw them again")

    def drop_leftovers(self) -> None:
        """Delete logs beside the final file, which a kill in the middle of `finish` leaves."""
        for path in (self._samples_path, self._scores_path):
            path.unlink(missing_ok=True)

    def _keys(self) -> dict[str, list[str]]:
        """Return the keys of the parts of each prompt, by the prompt's id."""
        found: dict[str, list[str]] = {key: [] for key in self._prompts}
        for key, part in self._parts.items():
            found[part.id].append(key)
        return found

    def _drawn(self, key: str) -> SampleRow:
        return SampleRow.from_json(self._samples.read(key), str(self._samples_path))

    def _scored(self, key: str) -> dict[str, Scores]:
        by_reward = self._scores.read(key)["scores"]
        return cast(dict[str, Scores], by_reward) if is_object(by_reward) else {}

    def _joined(self, prompt_id: str, keys: Sequence[str]) -> SampleRow:
        prompt, parts = self._prompts[prompt_id], [self._drawn(key) for key in keys]
        scored = [self._scored(key) for key in keys]
        numbers = [number for key in keys for number in self._parts[key].samples]
        return replace(
            parts[0],
            id=prompt_id,
            prompt=prompt.content if isinstance(prompt.content, str) else list(prompt.content),
            columns={name: prompt.fields[name] for name in self._fields if name in prompt.fields},
            responses=_joined(part.responses for part in parts),
            finish_reasons=_joined(part.finish_reasons for part in parts),
            token_ids=_joined(part.token_ids for part in parts),
            seeds=_joined(part.seeds for part in parts),
            # several parts begin with sample 0 and have no gaps
            sample_numbers=numbers if len(keys) == 1 and numbers != [*range(len(numbers))] else [],
            scores={
                REWARD if name == "reward" else f"{name}_scores": _joined(
                    part[name] for part in scored
                )
                for name in scored[0]
            },
            # comparisons are made within one part; prompts that have them are drawn in one part
            comparisons=cast(list[Comparison] | None, self._scores.read(keys[0]).get(COMPARISONS)),
            prompt_token_ids=list(prompt.token_ids),
        )

    def _check_leftovers(self) -> None:
        drawn = (key for key in self._samples.ids() if not self._is_known(key))
        scored = (key for key in self._scores.ids() if key not in self._samples)
        for path, strays in ((self._samples_path, drawn), (self._scores_path, scored)):
            stray = next(strays, None)
            if stray is not None:
                raise InputError(
                    path,
                    f"row {stray!r} belongs to no prompt drawn here",
                    f"delete {self._samples_path.name} and {self._scores_path.name} to draw "
                    "them again",
                )

    def _is_known(self, key: str) -> bool:
        return key in self._prompts or key.rpartition(_PART)[0] in self._prompts


def _joined(lists: Iterable[list[_T]]) -> list[_T]:
    return [item for one in lists for item in one]
