"""`raft rank`: add a ranking of the responses to each row of a file of responses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import cast

import numpy as np

from rewards.build import Place, build_judge, build_reward, here
from rewards.judges.judge import Judge, verdicts_of
from rewards.scoring.job import refuse_columns, run_job
from rewards.scoring.reading import Reading
from rewards.scoring.score import scores_of
from rewards.spec import JudgeSpec, RewardSpec
from rewards.tournament import Match, Report, Standing, Tournament, cost, play
from rewards.tournament.entrants import Entrants
from rewards.tournament.verdicts import Verdicts
from rewards.types import Reward, calls_at_once
from rollout.data.bad_rows import OnBadRow
from rollout.data.rows_to_score import RowReader, ScoreRow
from rollout.data.samples import COMPARISONS
from rollout.errors import InputError
from rollout.storage.output import output_path

__all__ = ["BY_SCORE", "COLUMNS", "rank_file"]

COLUMNS = ("ranking", "best", "ranking_scores", "tournament")
# the method that ranks by a reward's scores, without comparisons
BY_SCORE = "by_score"


def rank_file(
    file: str,
    *,
    judge: JudgeSpec | None = None,
    reward: RewardSpec | None = None,
    tournament: Tournament | None = None,
    out: str | None = None,
    replace: bool = False,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    batch_rows: int | None = None,
    restart: bool = False,
    on_bad_row: OnBadRow = "stop",
    place: Place = here,
) -> dict[str, object]:
    """Rank the responses of every row of `file`, by a judge's verdicts or by a reward's scores.

    Adds to each row `ranking`, the indices of its responses, best first; `best`, the first of
    these; `ranking_scores` in the order of the responses; `tournament`, the method, how many places
    it is made to tell from the best and from the worst end (`top`, `bottom`), and what
    `rewards.tournament.Report` counts; and, after a tournament, `comparisons` with their results.
    Where a comparison is missing, so is the ranking: an empty list, null, and scores of null. By
    score, responses without one are skipped in the ranking.

    Equal responses are one entrant: they share their score and stand side by side.

    Args:
        judge, reward: what ranks, one of the two.
        out, replace, split, columns, batch_rows, restart, on_bad_row, place: as `score_file` takes
            them; by default the rows go to `STEM.ranked.jsonl`.

    Returns:
        The summary: as `score_file`'s, with the sums and shares of a tournament's report.

    Raises:
        InputError: anything wrong with the file, a row of it, the settings or the output.
        RewardError: a verdict or a score that cannot be had, with the place of its row.
    """
    reader = RowReader(file, split=split, form="responses", columns=columns, on_bad_row=on_bad_row)
    path = output_path(out, file, reader.stem, "ranked")
    chosen = tournament or Tournament()
    work = _Ranking(judge, reward, chosen, replace, place, skips=on_bad_row == "skip")
    scorer = judge if judge is not None else reward
    settings = {
        "command": "rank",
        "by": "judge" if judge is not None else "reward",
        "scorer": scorer.given() if scorer is not None else None,
        "tournament": {**asdict(chosen), "method": work.method},
    }
    return run_job(reader, work, path, settings, batch_rows=batch_rows, restart=restart)


class _Ranking:
    """The work of `raft rank`: ranks rows, and sums the reports of their tournaments."""

    title = "ranking"

    def __init__(
        self,
        judge: JudgeSpec | None,
        reward: RewardSpec | None,
        tournament: Tournament,
        replace: bool,
        place: Place,
        skips: bool,
    ) -> None:
        if (judge is None) == (reward is None):
            raise InputError(
                "rank", "needs a judge or a reward, one of the two", "give --judge or --reward"
            )
        self._specs = (judge, reward)
        self._place = place
        scorer = judge if reward is None else reward
        assert scorer is not None, "one of the two is there"
        self._reading = Reading(scorer, length=skips)
        self._tournament = tournament
        self.method = tournament.method or ("round_robin" if reward is None else BY_SCORE)
        _check_tournament(self.method, tournament)
        self._replace = replace
        self._judge: Judge | None = None
        self._reward: Reward | None = None
        self._report = Report()
        self._scored = 0

    def columns(self, row: ScoreRow) -> Sequence[str]:
        columns = COLUMNS if self.method == BY_SCORE else (*COLUMNS, COMPARISONS)
        refuse_columns(row, columns, self._replace, "")
        return columns

    def check(self, row: ScoreRow) -> None:
        if not row.groups:
            raise InputError(row.where, "'responses' is empty", "there is nothing to rank")
        if len(row.groups) > 1:
            raise InputError(row.where, "its responses answer different prompts", "score them")
        if self.method != BY_SCORE:
            self._check_cost(row)
        self._reading.check(row)

    def skipped(self, row: ScoreRow) -> dict[str, object]:
        columns = dict(zip(COLUMNS, ([], None, row.nulls(), None), strict=True))
        return row.skipped(columns | ({} if self.method == BY_SCORE else {COMPARISONS: []}))

    def prepare(self) -> int:
        judge, reward = self._specs
        if judge is not None:
            self._judge = self._place(partial(build_judge, judge))
        if reward is not None:
            self._reward = self._place(partial(build_reward, reward))
        return calls_at_once(self._judge or self._reward)

    def run(self, rows: Sequence[ScoreRow]) -> list[dict[str, object]]:
        scores = None
        if self._reward is not None:
            scores = scores_of(self._reward, [row.groups[0] for row in rows])
        if self.method == BY_SCORE:
            assert scores is not None
            return [_by_score(row, one) for row, one in zip(rows, scores, strict=True)]
        fields = [Entrants.of(row.groups[0]) for row in rows]
        standings = self._play(fields, scores)
        return [
            _ranked(row, field, standing, self.method)
            for row, field, standing in zip(rows, fields, standings, strict=True)
        ]

    def count(self, row: ScoreRow, finished: Mapping[str, object]) -> None:
        stored = cast(dict[str, int], finished["tournament"])
        counted = {name: stored[name] for name in stored if name not in ("method", "top", "bottom")}
        self._report += Report(prompts=1, **counted)
        self._scored += row.conversations

    def summary(self) -> dict[str, object]:
        report = self._report
        shares = {
            "position_bias": report.position_bias,
            "inconsistency": report.inconsistency,
            "flip_share": report.flip_share,
            "intransitive_share": report.intransitive_share,
        }
        return {
            "method": self.method,
            **asdict(report),
            "forward_passes": self._forward_passes,
            **{name: None if math.isnan(share) else share for name, share in shares.items()},
        }

    def line(self) -> str:
        report = self._report
        missing = f"{report.missing} prompts without a ranking"
        if self.method == BY_SCORE:
            return f"ranked by score, no tournament, {missing}"
        bias = report.position_bias
        parts = [
            f"{self.method}: {report.comparisons} comparisons, "
            f"{self._forward_passes} forward passes",
            f"{report.ties} ties",
            "position bias unknown"
            if math.isnan(bias)
            else f"position bias {bias:+.3f}, {report.flip_share:.1%} turn with the order",
            f"{report.intransitive} of {report.triples} triples intransitive",
            missing,
        ]
        return ", ".join(parts)

    @property
    def _forward_passes(self) -> int:
        return self._report.forward_passes if self._specs[0] is not None else self._scored

    def _play(
        self, fields: Sequence[Entrants], scores: list[list[float | None]] | None
    ) -> list[Standing]:
        def compare(matches: Sequence[Match]) -> Verdicts | list[float | None]:
            if scores is not None:
                return _by_margin(matches, fields, scores)
            assert self._judge is not None, "prepare comes first"
            named = [fields[at].match(first, second) for at, first, second in matches]
            return verdicts_of(self._judge, named)

        chosen = self._tournament
        return play(
            self.method,
            [len(field.texts) for field in fields],
            compare,
            seed=chosen.seed,
            keys=[field.id for field in fields],
            tie=chosen.tie,
            budget=chosen.budget,
            **chosen.settings(),
        )

    def _check_cost(self, row: ScoreRow) -> None:
        chosen, entrants = self._tournament, len(Entrants.of(row.groups[0]).texts)
        try:
            cost(self.method, entrants, budget=chosen.budget, **chosen.settings())
        except InputError as error:
            raise InputError(row.where, error) from error


def _ranked(row: ScoreRow, field: Entrants, standing: Standing, method: str) -> dict[str, object]:
    order = {entrant: place for place, entrant in enumerate(standing.order)}
    ranking = sorted(range(len(field.entrants)), key=lambda k: order.get(field.entrants[k], 0))
    scores = [standing.scores[entrant] for entrant in field.entrants]
    told = {"method": method, "top": standing.top, "bottom": standing.bottom}
    told |= _told(Report.of([standing]))
    found = _with(row, [] if standing.missing else ranking, scores, told)
    # where a comparison is missing, these are the comparisons of the rounds before it
    return {**found, COMPARISONS: standing.played.among(field.entrants)}


def _by_score(row: ScoreRow, scores: list[float | None]) -> dict[str, object]:
    known = [(-score, k) for k, score in enumerate(scores) if score is not None]
    ranking = [k for _, k in sorted(known)]
    n = len(ranking)
    told = {"method": BY_SCORE, "top": n, "bottom": n, **_told(Report(missing=int(not ranking)))}
    return _with(row, ranking, scores, told)


def _by_margin(
    matches: Sequence[Match], fields: Sequence[Entrants], scores: list[list[float | None]]
) -> Verdicts:
    """Return verdicts with P(first is better) = σ(its score − the other's), without position bias.

    Where one of the two scores is missing, so is the verdict.
    """
    pairs = [
        [scores[at][fields[at].entrants.index(entrant)] for entrant in (first, second)]
        for at, first, second in matches
    ]
    values_M2 = np.array(pairs, dtype=np.float64).reshape(-1, 2)  # a missing score is NaN
    margin_M = values_M2[:, 0] - values_M2[:, 1]
    return Verdicts.from_log_odds(margin_M, -margin_M, np.isnan(margin_M))


def _told(report: Report) -> dict[str, object]:
    told = asdict(report)
    del told["prompts"]
    return told


def _with(
    row: ScoreRow, ranking: list[int], scores: list[float | None], told: dict[str, object]
) -> dict[str, object]:
    values = (ranking, ranking[0] if ranking else None, scores, told)
    return {**row.written, **dict(zip(COLUMNS, values, strict=True))}


def _check_tournament(method: str, chosen: Tournament) -> None:
    if method != BY_SCORE:
        # one response: every setting is checked, and nothing compared
        play(method, [1], lambda _: [], seed=chosen.seed, tie=chosen.tie, budget=chosen.budget,
             **chosen.settings())  # fmt: skip
        return
    if chosen.settings() or chosen.budget is not None or chosen.tie:
        raise InputError(
            "rank",
            "a reward ranks by its scores, without a tournament",
            "name a --method to hold one, or leave its settings out",
        )
