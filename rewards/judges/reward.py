"""`JudgeReward`: a pairwise judge as a reward, by a tournament among each prompt's responses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rewards.judges.judge import Judge, verdicts_of
from rewards.tournament import Match, Played, Report, Standing, Tournament, Verdict, play
from rewards.tournament.entrants import Entrants, Named
from rewards.tournament.verdicts import Answers, read_answers
from rewards.types import Comparison, Scores
from rollout.types import Completion, Group, InputError, judged_sides

__all__ = ["DEFAULT_TOURNAMENT", "REFERENCE_FIELD", "JudgeReward", "check_tournament"]

DEFAULT_TOURNAMENT = "knockout"

# the column of a prompt's row with a text for each of its K responses to be compared with
REFERENCE_FIELD = "reference_responses"


class JudgeReward:
    """Scores a response by how it fares against the other responses to its prompt.

    Args:
        judge: what compares: by `verdicts(comparisons, names=…)` where it has that, else `compare`.
        tournament: a method of `rewards.tournament`, with its settings `score` and `rounds`.
        budget: comparisons that one prompt may cost.
        tie: |P − ½| up to this is a tie.
        seed: with a prompt's id, decides all that is drawn for it.

    Scores compare the responses of one prompt only: the winner's is the highest, and their mean
    over prompts means nothing. A prompt whose fields hold K `reference_responses` is no tournament:
    the score of response k is P(it beats reference k), in [0, 1], and the mean is a win rate; where
    that column is None the responses are their own references, and every score is ½.

    Raises `InputError` for settings that no tournament has.
    """

    kind = "pairwise"

    def __init__(
        self,
        judge: Judge,
        *,
        tournament: str = DEFAULT_TOURNAMENT,
        budget: int | None = None,
        tie: float = 0.0,
        seed: int = 0,
        score: str | None = None,
        rounds: int | None = None,
    ) -> None:
        rules = Tournament(tournament, score, rounds, budget, tie, seed)
        self._play = check_tournament(rules)
        self.judge = judge
        self.name = str(getattr(judge, "name", None) or type(judge).__name__)
        self._tie = tie
        self._report = Report()
        self._comparisons: dict[str, list[list[int | float]]] = {}

    @classmethod
    def of(cls, judge: Judge, rules: Tournament) -> JudgeReward:
        """Make the reward from the settings of a tournament as one value. Raises `InputError`."""
        settings = asdict(rules)
        return cls(judge, tournament=settings.pop("method") or DEFAULT_TOURNAMENT, **settings)

    def score_groups(self, groups: Sequence[Group]) -> Scores:
        """Return one list of K scores per group, in order, with None for missing scores.

        A missing comparison makes the scores of its whole group missing; one with a reference only
        that of its response.

        All groups' comparisons of a round are one batch. Equal responses to a prompt are one
        entrant, with one score. Raises what the judge raises, and `InputError` for references that
        are not one text per response.
        """
        self._comparisons = {}
        referred = [REFERENCE_FIELD in group.prompt.fields for group in groups]
        duels = iter(self._duel([g for g, is_so in zip(groups, referred, strict=True) if is_so]))
        ranks = iter(
            self._rank([g for g, is_so in zip(groups, referred, strict=True) if not is_so])
        )
        return [next(duels if is_so else ranks) for is_so in referred]

    def report(self) -> Report:
        """Return comparisons spent, ties, position bias and circles since the last `take_report`.

        Forward passes are those that the comparisons ask for; a judge may save some
        (`PairwiseJudge.forward_passes`).
        """
        return self._report

    def take_report(self) -> Report:
        """Return the report since the last call of this method, and begin a new one."""
        taken, self._report = self._report, Report()
        return taken

    def comparisons(self) -> dict[str, list[list[int | float]]]:
        """Return what the tournaments of the last `score_groups` compared, by prompt id:
        [[i, j, P(response i is better than j)], …]. Comparisons with references are not in it."""
        return self._comparisons

    def to(self, device: str) -> None:
        """Move the model, where the judge has one."""
        move = getattr(self.judge, "to", None)
        if move is not None:
            move(device)

    def describe(self) -> dict[str, object]:
        """Return the settings that a score depends on, for a run's records."""
        describe = getattr(self.judge, "describe", None)
        judge = describe() if describe else {"name": self.name}
        settings = {"tournament": self._play["method"], **self._play}
        del settings["method"]
        return {**judge, **settings}

    def _rank(self, groups: Sequence[Group]) -> Scores:
        """Return each group's K scores, from a tournament of its distinct responses.

        Raises `InputError` for a group of one response.
        """
        alone = next((group for group in groups if len(group.completions) == 1), None)
        if alone is not None:
            raise InputError(
                f"prompt {alone.prompt.id!r}",
                "has one response: a judge compares two or more",
            )
        fields = [Entrants.of(group) for group in groups]
        played = [field for field in fields if field.texts]

        def compare(matches: Sequence[Match]) -> Verdict:
            return verdicts_of(self.judge, [played[at].match(i, j) for at, i, j in matches])

        sizes, keys = [len(field.texts) for field in played], [field.id for field in played]
        standings = play(sizes=sizes, compare=compare, keys=keys, **self._play)
        self._report += Report.of(standings)
        for field, standing in zip(played, standings, strict=True):
            self._comparisons[field.id] = standing.played.among(field.entrants)
        scores = iter([standing.scores for standing in standings])
        rows = [next(scores) if field.texts else () for field in fields]
        return [
            [row[entrant] for entrant in field.entrants]
            for field, row in zip(fields, rows, strict=True)
        ]

    def _duel(self, groups: Sequence[Group]) -> Scores:
        """Return P(it beats its own reference) of each group's K responses, None where missing.

        Groups without references of their own score ½ throughout.
        """
        asked = [duel for group in groups for duel in _duels(group)]
        verdict = verdicts_of(self.judge, asked) if asked else []
        answers = read_answers(verdict, len(asked), self._tie, lambda at: asked[at][1])
        found, start = [], 0
        for group in groups:
            if group.prompt.fields[REFERENCE_FIELD] is None:
                found.append([0.5] * len(group.completions))
                continue
            stop = start + len(group.completions)
            standing = _standing(answers, start, stop)
            self._report += Report.of([standing])
            found.append(list(standing.scores))
            start = stop
        return found


def _duels(group: Group) -> list[Named]:
    """Return the comparison of every response with its reference; none where the column is None.

    Raises `InputError` where the references are not one text for each response.
    """
    prompt, references = group.prompt, group.prompt.fields[REFERENCE_FIELD]
    if references is None:
        return []
    turns, texts = judged_sides(group)
    if isinstance(references, str) or not isinstance(references, Sequence):
        raise InputError(f"prompt {prompt.id!r}", f"{REFERENCE_FIELD} must be a list of texts")
    if len(references) != len(texts) or not all(isinstance(one, str) for one in references):
        raise InputError(
            f"prompt {prompt.id!r}",
            f"{REFERENCE_FIELD} must be {len(texts)} texts, one for each response, and has "
            f"{len(references)} entries",
        )
    drawn = tuple(map(Completion, references))
    _, references = judged_sides(replace(group, completions=drawn))
    return [
        (
            Comparison(turns, text, reference),
            f"response {k} of prompt {prompt.id!r} and its reference",
        )
        for k, (text, reference) in enumerate(zip(texts, references, strict=True))
    ]


def _standing(answers: Answers, start: int, stop: int) -> Standing:
    """Return K comparisons with references as a standing, for the report.

    They are answers `start` to `stop`; response k is entrant k and its reference entrant K + k.
    """
    k = stop - start
    there = [at for at in range(k) if not answers.missing_M[start + at]]
    probability, margin, points, gap = (
        [float(column[start + at]) for at in there]
        for column in (answers.probability_M, answers.margin_M, answers.points_M, answers.gap_M)
    )
    scores = dict(zip(there, probability, strict=True))
    return Standing(
        order=tuple(range(k)) if len(there) == k else (),
        scores=tuple(scores.get(at) for at in range(k)),
        top=0,
        bottom=0,
        comparisons=k,
        ties=points.count(0.5),
        rounds=1,
        played=Played(
            tuple((at, k + at) for at in there),
            tuple(probability),
            tuple(margin),
            tuple(points),
            tuple(None if math.isnan(one) else one for one in gap),
        ),
    )


def check_tournament(rules: Tournament) -> dict[str, Any]:
    """Check a tournament's settings and return them as keywords of `play`, without those of None.

    Raises `InputError` as `play` does.
    """
    given = {name: value for name, value in asdict(rules).items() if value is not None}
    settings = {"method": DEFAULT_TOURNAMENT, **given}
    # one response: everything is checked and nothing compared
    play(sizes=[1], compare=lambda matches: [], **settings)
    return settings
