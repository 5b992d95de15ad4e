"""Many prompts at once: batches, independence of batch mates, missing and impossible verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from wording import words

from rewards.tournament import METHODS, Match, play, round_robin
from rewards.tournament.verdicts import Verdicts
from rewards.types import RewardError
from rollout.types import InputError


class Judge:
    """Compares by a table of margins that knows prompts by name; counts its calls."""

    def __init__(self, names, sigma: float = 1.0) -> None:
        self.names = names
        self.sigma = sigma
        self.batches: list[int] = []

    def margin(self, match: Match) -> float:
        first, second = sorted((match.first, match.second))
        rng = np.random.default_rng([hash_of(self.names[match.prompt]), first, second])
        return rng.normal(first - second, self.sigma) * (1 if first == match.first else -1)

    def __call__(self, matches):
        self.batches.append(len(matches))
        return [1 / (1 + math.exp(-self.margin(match))) for match in matches]


def hash_of(name) -> int:
    return sum(map(ord, str(name)))


def test_a_round_of_all_prompts_is_one_batch():
    judge = Judge(range(64))
    standings = play("knockout", [8] * 64, judge)
    assert judge.batches == [4 * 64, 2 * 64, 64]
    assert sum(standing.comparisons for standing in standings) == 7 * 64
    assert all(standing.rounds == 3 for standing in standings)


@pytest.mark.parametrize(
    ("method", "batches"),
    [
        ("round_robin", [28 * 5]),
        ("pivot", [7 * 5]),
        ("sequential", [5] * 7),
        ("swiss", [4 * 5] * 4),
        ("best_and_worst", [4 * 5, 4 * 5, 2 * 5]),
    ],
)
def test_batches_of_each_method(method, batches):
    judge = Judge(range(5))
    play(method, [8] * 5, judge)
    assert judge.batches == batches


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_standing_does_not_depend_on_batch_mates(method):
    names = ["a", "b", "c", "d", "e"]
    sizes = [5, 8, 1, 13, 2]
    together = play(method, sizes, Judge(names), seed=3, keys=names)
    for at, (name, n) in enumerate(zip(names, sizes, strict=True)):
        assert play(method, [n], Judge([name]), seed=3, keys=[name]) == [together[at]]
    backwards = play(method, sizes[::-1], Judge(names[::-1]), seed=3, keys=names[::-1])
    assert backwards == together[::-1]


def test_prompts_are_drawn_independently():
    standings = play("knockout", [8] * 50, Judge(range(50)))
    assert len({standing.played.pairs for standing in standings}) == 50
    # 1 and "1" are two names
    one, other = play("knockout", [8, 8], Judge([1, 1]), keys=[1, "1"])
    assert one.played.pairs != other.played.pairs


def test_nothing_to_compare_is_never_asked():
    def judge(matches):
        raise AssertionError("asked")

    assert play("knockout", [], judge) == []
    for method in METHODS:
        (standing,) = play(method, [1], judge)
        assert standing.order == (0,) and not standing.missing
        assert standing.comparisons == standing.rounds == 0


def test_a_missing_comparison_makes_its_standing_missing_and_no_other():
    calls = []

    def judge(matches):
        calls.append([match.prompt for match in matches])
        # prompt 1 fails in the second round
        missing = len(calls) == 2
        return [None if missing and match.prompt == 1 else 0.7 for match in matches]

    standings = play("knockout", [8, 8, 8], judge)
    gone = standings[1]
    assert gone.missing and gone.winner is None
    assert gone.scores == (None,) * 8 and gone.order == ()
    assert (gone.comparisons, gone.rounds) == (6, 2)
    assert len(gone.played.pairs) == 4
    assert 1 not in calls[2]
    assert not standings[0].missing and not standings[2].missing
    alone = play("knockout", [8], lambda matches: [0.7] * len(matches), keys=[2])
    assert standings[2] == alone[0]


def test_missing_verdicts_are_missing_comparisons():
    def judge(matches):
        missing = [match.prompt == 0 for match in matches]
        return Verdicts.from_log_odds(
            np.where(missing, np.nan, 1.0), np.where(missing, np.nan, -1.0), missing
        )

    standings = play("round_robin", [3, 3], judge)
    assert [standing.missing for standing in standings] == [True, False]


def test_verdicts_bring_their_own_margins():
    # P saturates where log-odds do not: only the margins tell 1 from 2
    quality = [0.0, 4000.0, 5000.0]

    def judge(matches):
        margin = np.array([quality[match.first] - quality[match.second] for match in matches])
        return Verdicts.from_log_odds(margin, -margin)

    (standing,) = play("round_robin", [3], judge, score="mean_logit")
    assert standing.scores == pytest.approx((-4500.0, 1500.0, 3000.0))
    assert standing.played.gap_M == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (math.nan, "probability nan"),
        (-0.01, "probability -0.01"),
        (1.01, "probability 1.01"),
        (math.inf, "probability inf"),
    ],
)
@pytest.mark.parametrize("form", [list, np.array])
def test_what_is_no_probability_is_an_error_that_names_the_prompt(answer, message, form):
    def judge(matches):
        return form([answer if match.prompt == 1 else 0.5 for match in matches])

    with pytest.raises(RewardError, match=f"{message}.*responses 0 and 1 of prompt 'q'") as error:
        play("round_robin", [3, 3], judge, keys=["p", "q"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", [[], [0.5] * 2, [0.5] * 4, [[0.5]] * 3, np.full((3, 1), 0.5)])
def test_a_wrong_number_of_answers_is_an_error(wrong):
    with pytest.raises(RewardError, match="asked 3 comparisons"):
        round_robin(3, lambda pairs: wrong)


@pytest.mark.parametrize("wrong", [None, ["yes"] * 3, [[0.5], [0.5, 0.5], 0.5]])
def test_what_is_no_number_is_an_error(wrong):
    with pytest.raises(RewardError, match="must answer with probabilities"):
        round_robin(3, lambda pairs: wrong)  # type: ignore[arg-type,return-value]


def test_keys_must_match_the_prompts():
    with pytest.raises(InputError, match=words("2 prompts keys 1")):
        play("knockout", [2, 2], Judge("ab"), keys=["a"])
