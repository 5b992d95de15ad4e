"""`raft score`: add scores to the rows of a file of responses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from rewards.build import Place, build_reward, here
from rewards.scoring.job import refuse_columns, run_job
from rewards.scoring.reading import Reading
from rewards.spec import RewardSpec
from rewards.types import Reward, RewardError, calls_at_once
from rollout.data.bad_rows import OnBadRow
from rollout.data.rows_to_score import Form, RowReader, ScoreRow, score_columns
from rollout.errors import InputError
from rollout.storage.output import output_path
from rollout.types import Group

__all__ = ["Moments", "score_file", "scores_of"]


def score_file(
    file: str,
    reward: RewardSpec,
    *,
    out: str | None = None,
    form: Form | None = None,
    name: str | None = None,
    replace: bool = False,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    batch_rows: int | None = None,
    restart: bool = False,
    on_bad_row: OnBadRow = "stop",
    place: Place = here,
) -> dict[str, object]:
    """Score every row of `file` with `reward`.

    Args:
        out: a JSONL file, "-" for standard output; by default `STEM.scored.jsonl` beside `file`.
        form: read rows as this form; by default as the one that their columns fit.
        name: goes before the columns added: `gold` gives `gold_scores`.
        replace: columns of that name may be there already.
        split: of a dataset; columns: other names of columns, as `RowReader` takes them.
        batch_rows: rows scored together; by default as many as hold 512 conversations.
        restart: throw away what an interrupted command left, and replace a finished file.
        on_bad_row: "skip" gives a row that cannot be scored scores of null and the reason, in a
            column `skipped`, and goes on. A row that has both already is skipped always.
        place: where the reward runs.

    Returns:
        The summary: `out`, `rows`, `conversations`, `missing`, `mean` and `std` of the scores;
        `skipped` rows and `skipped_reasons`, {reason: {"rows", "first"}};
        and of what was scored now `new_conversations`, `seconds`, `conversations_per_second`.

    Raises:
        InputError: anything wrong with the file, a row of it, the settings or the output.
        RewardError: a reward that cannot be computed, with the place of its row.
    """
    reader = RowReader(file, split=split, form=form, columns=columns, on_bad_row=on_bad_row)
    path = output_path(out, file, reader.stem, "scored")
    work = _Scoring(reward, name, replace, place, skips=on_bad_row == "skip")
    settings = {"command": "score", "scorer": reward.given(), "form": form, "name": name}
    return run_job(reader, work, path, settings, batch_rows=batch_rows, restart=restart)


def scores_of(reward: Reward, groups: Sequence[Group]) -> list[list[float | None]]:
    """Return the scores of `reward`, checked: a finite number or None for each response.

    Raises RewardError for anything else.
    """
    scores = reward.score_groups(groups) if groups else []
    found, wanted = list(map(len, scores)), [len(group.completions) for group in groups]
    if found != wanted:
        raise RewardError(
            f"the reward gave {sum(found)} scores in {len(found)} groups for {sum(wanted)} "
            f"responses in {len(wanted)}: it must give one of each response"
        )
    for group, one in zip(groups, scores, strict=True):
        if not all(score is None or math.isfinite(score) for score in one):
            raise RewardError(f"the reward of prompt {group.prompt.id!r} is not finite")
    return [[None if score is None else float(score) for score in one] for one in scores]


class Moments:
    """Count, mean and standard deviation of numbers seen one at a time (Welford 1962)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self._squares = 0.0

    @property
    def std(self) -> float:
        """The population's standard deviation, with the count as divisor; 0 for no numbers."""
        return math.sqrt(self._squares / self.count) if self.count else 0.0

    def add(self, value: float) -> None:
        self.count += 1
        step = value - self.mean
        self.mean += step / self.count
        self._squares += step * (value - self.mean)


class _Scoring:
    """The work of `raft score`: scores rows, and counts their scores for the summary."""

    title = "scoring"

    def __init__(
        self, reward: RewardSpec, name: str | None, replace: bool, place: Place, skips: bool
    ) -> None:
        self._spec = reward
        self._place = place
        self._name = name
        self._replace = replace
        self._counts_tokens = _counts_tokens(reward.given())
        self._reading = Reading(reward, length=skips)
        self._reward: Reward | None = None
        self._seen = Moments()
        self._missing = 0

    def columns(self, row: ScoreRow) -> Sequence[str]:
        columns = score_columns(row.form, self._name)
        refuse_columns(row, columns, self._replace, "--output-column NAME to add others, or ")
        return columns

    def check(self, row: ScoreRow) -> None:
        if self._counts_tokens:
            _check_tokens(row)
        self._reading.check(row)

    def prepare(self) -> int:
        self._reward = self._place(partial(build_reward, self._spec))
        return calls_at_once(self._reward)

    def run(self, rows: Sequence[ScoreRow]) -> list[dict[str, object]]:
        assert self._reward is not None, "prepare comes first"
        groups = _together(rows)
        scores = iter([one for group in scores_of(self._reward, groups) for one in group])
        return [
            row.scored(
                [[next(scores) for _ in group.completions] for group in row.groups], self._name
            )
            for row in rows
        ]

    def skipped(self, row: ScoreRow) -> dict[str, object]:
        nulls = row.nulls() if row.form == "responses" else None
        return row.skipped(dict.fromkeys(score_columns(row.form, self._name), nulls))

    def count(self, row: ScoreRow, finished: Mapping[str, object]) -> None:
        for score in row.scores_in(finished, self._name):
            if score is None:
                self._missing += 1
            else:
                self._seen.add(score)

    def summary(self) -> dict[str, object]:
        seen = self._seen
        known = {"mean": seen.mean, "std": seen.std} if seen.count else {"mean": None, "std": None}
        return {"missing": self._missing, **known}

    def line(self) -> str:
        lost = f", {self._missing} missing" if self._missing else ""
        seen = self._seen
        known = f"score {seen.mean:.4g}, std {seen.std:.4g}" if seen.count else "no score"
        return known + lost


def _together(rows: Sequence[ScoreRow]) -> list[Group]:
    """Return the groups of rows, with neighbours of one response to the same prompt joined.

    Those whose other columns differ, which a function may read, are not joined.
    """
    groups: list[Group] = []
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and before.answers_as(row) and _same_fields(before, row):
            (own,) = row.groups
            groups[-1] = replace(
                groups[-1], completions=(*groups[-1].completions, *own.completions)
            )
        else:
            groups += row.groups
    return groups


def _same_fields(first: ScoreRow, second: ScoreRow) -> bool:
    return first.groups[0].prompt.fields == second.groups[0].prompt.fields


def _counts_tokens(settings: object) -> bool:
    """Return whether a setting at any depth tells a built-in function to count tokens."""
    if isinstance(settings, dict):
        return settings.get("unit") == "tokens" or any(map(_counts_tokens, settings.values()))
    return isinstance(settings, list) and any(map(_counts_tokens, settings))


def _check_tokens(row: ScoreRow) -> None:
    # without ids every length would be 0
    for group in row.groups:
        if any(one.text and not one.token_ids for one in group.completions):
            raise InputError(
                row.where,
                "has no token_ids, which unit: tokens counts",
                "use words or chars",
            )
