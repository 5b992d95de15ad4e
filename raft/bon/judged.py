"""Judge a pool: which response the judge selects, and how often that one beats a random sample.

The last response of each prompt is the reference: it takes no part in the selection, and stands for
a sample of the policy. For every other response the judge gives P(it beats the reference), in both
orders. The mean of that over all responses is one half but for noise, the win rate at n = 1, so a
higher win rate of the selected response is due to the selection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from rewards.build import build_judge
from rewards.judges.reward import DEFAULT_TOURNAMENT, REFERENCE_FIELD, JudgeReward
from rewards.scoring.job import run_job
from rewards.scoring.reading import Reading
from rewards.scoring.score import scores_of
from rewards.spec import JudgeSpec
from rewards.tournament import Tournament
from rewards.types import calls_at_once
from rollout.data.bad_rows import OnBadRow
from rollout.data.jsonl import is_list
from rollout.data.rows_to_score import RowReader, ScoreRow
from rollout.data.samples import COMPARISONS, RANKING
from rollout.errors import InputError
from rollout.storage.output import refuse_input
from rollout.types import Group

__all__ = ["WINS", "Selection", "judge_pool"]

WINS = "win_scores"
_REFERENCE = "reference"


@dataclass(frozen=True, slots=True)
class Selection:
    """A judge, and the tournament by which it selects.

    The tournament's points become `scores`; None where a reward selects and the judge only gives
    the win rate.
    """

    judge: JudgeSpec
    tournament: Tournament | None

    @property
    def method(self) -> str | None:
        if self.tournament is None:
            return None
        return self.tournament.method or DEFAULT_TOURNAMENT

    def build(self) -> JudgeReward:
        return JudgeReward.of(build_judge(self.judge), self.tournament or Tournament())


def judge_pool(
    file: Path,
    path: Path,
    selection: Selection,
    *,
    n: int | None = None,
    on_bad_row: OnBadRow = "stop",
    restart: bool = False,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
) -> dict[str, object]:
    """Write the first `n` responses of each row of `file` to `path` (default: all but the last).

    Each row gets `win_scores`, P(response beats the reference), `reference`, the text of the row's
    last response, and, by a tournament, `scores` and `comparisons`. An interrupted call goes on
    where it stopped, unless the pool has changed.

    Returns the summary of `rewards.scoring.job.run_job`, with counts of comparisons and ties.

    Raises:
        InputError: a row with too few responses, unusable settings, or an output that is in the
            way.
        RewardError: a comparison that the judge cannot make.
    """
    settings = {
        "command": "bon",
        "scorer": selection.judge.given(),
        "tournament": asdict(selection.tournament) if selection.tournament else None,
        "n": n,
    }
    refuse_input(path, file)
    reader = RowReader(
        str(file), form="responses", split=split, columns=columns, on_bad_row=on_bad_row
    )
    # a finished row holds cut lists, from which run_job could not tell that the pool has changed
    return run_job(
        reader,
        _Judging(selection, n, skips=on_bad_row == "skip"),
        path,
        settings,
        free=("scorer.non_finite",),
        restart=restart,
    )


class _Judging:
    title = "judging"

    def __init__(self, selection: Selection, n: int | None, *, skips: bool) -> None:
        self._reading = Reading(selection.judge, length=skips)
        self._selection = selection
        self._n = n
        self._judge: JudgeReward | None = None
        self._missing = 0

    def columns(self, row: ScoreRow) -> Sequence[str]:
        # columns that are added, and lists that are cut to the responses that compete
        cut = _per_response(row) & row.columns.keys()
        own = {"scores", COMPARISONS} if self._selection.tournament is not None else set()
        return sorted({*cut, *own, *RANKING.intersection(row.columns), "id", WINS, _REFERENCE})

    def check(self, row: ScoreRow) -> None:
        count, wanted = row.conversations, 1 + (self._n or 1)
        if count < wanted:
            raise InputError(
                row.where,
                f"has {count} responses where {wanted} are needed: one is set aside for the "
                "others to be compared with",
                "draw more, or lower --num-responses",
            )
        self._reading.check(row)

    def skipped(self, row: ScoreRow) -> dict[str, object]:
        return row.skipped({WINS: None})

    def prepare(self) -> int:
        self._judge = self._selection.build()
        return calls_at_once(self._judge)

    def run(self, rows: Sequence[ScoreRow]) -> list[dict[str, object]]:
        assert self._judge is not None, "prepare comes first"
        fields = [_competing(row.groups[0], self._n) for row in rows]
        won = scores_of(self._judge, [_against_last(*field) for field in fields])
        standings: list[dict[str, object]] = [{} for _ in rows]
        if self._selection.tournament is not None:
            points = scores_of(self._judge, [group for group, _ in fields])
            compared = self._judge.comparisons()
            standings = [
                {"scores": one, COMPARISONS: compared.get(group.prompt.id, [])}
                for one, (group, _) in zip(points, fields, strict=True)
            ]
        return [
            _judged(row, *field, wins, standing)
            for row, field, wins, standing in zip(rows, fields, won, standings, strict=True)
        ]

    def count(self, row: ScoreRow, finished: Mapping[str, object]) -> None:
        self._missing += cast(list[float | None], finished[WINS]).count(None)

    def summary(self) -> dict[str, object]:
        report = self._judge.report() if self._judge is not None else None
        made = {} if report is None else {"comparisons": report.comparisons, "ties": report.ties}
        return {"method": self._selection.method, "missing": self._missing, **made}

    def line(self) -> str:
        comparisons = 0 if self._judge is None else self._judge.report().comparisons
        return f"{comparisons} comparisons, {self._missing} missing"


def _competing(group: Group, n: int | None) -> tuple[Group, str]:
    """Return the group of the first `n` responses, which compete, and the text of the reference.

    The reference is the last response; without `n` all others compete.
    """
    *before, last = group.completions
    return replace(group, completions=tuple(before[:n])), last.text


def _against_last(group: Group, reference: str) -> Group:
    fields = {**group.prompt.fields, REFERENCE_FIELD: [reference] * len(group.completions)}
    return replace(group, prompt=replace(group.prompt, fields=fields))


def _judged(
    row: ScoreRow,
    group: Group,
    reference: str,
    wins: list[float | None],
    standing: dict[str, object],
) -> dict[str, object]:
    count, all_of_them = len(group.completions), row.conversations
    lists = {
        name: values[:count]
        for name, values in row.columns.items()
        if is_list(values) and len(values) == all_of_them and name in _per_response(row)
    }
    # a stored ranking of all responses is not one of those that compete
    unknown = dict.fromkeys(RANKING.intersection(row.columns))
    added = {**standing, WINS: wins, _REFERENCE: reference}
    return {"id": row.id, **row.columns, **lists, **unknown, **added}


def _per_response(row: ScoreRow) -> set[str]:
    named = {"responses", "finish_reasons", "seeds", "token_ids", "sample_numbers"}
    return named | {name for name in row.columns if name.endswith("scores")}
