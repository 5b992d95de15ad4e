"""Every method by itself: what it finds, what it costs, what ties and odd numbers lead to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from wording import says, words

from rewards.tournament import (
    METHODS,
    Standing,
    best_and_worst,
    cost,
    double_elimination,
    knockout,
    pivot,
    play,
    round_robin,
    sequential,
    swiss,
)
from rewards.tournament.verdicts import MOST_LOGIT
from rollout.types import InputError

SINGLE: dict[str, Any] = {
    "sequential": sequential,
    "knockout": knockout,
    "pivot": pivot,
    "best_and_worst": best_and_worst,
    "double_elimination": double_elimination,
    "swiss": swiss,
    "round_robin": round_robin,
}
SIZES = range(1, 34)
LEAGUE_SCORES = ("copeland", "mean_probability", "mean_logit", "bradley_terry")


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def soft(quality):
    """A judge that sees the truth and answers in probabilities."""
    return lambda pairs: [sigma(quality[i] - quality[j]) for i, j in pairs]


def hard(quality):
    """The same, knowing only who is better."""
    return lambda pairs: [float(quality[i] > quality[j]) for i, j in pairs]


def planted(n: int, seed: int = 0) -> list[float]:
    """Distinct qualities in random order; the best has the highest number."""
    return [0.3 * value for value in np.random.default_rng([seed, n]).permutation(n)]


def truth(quality) -> list[int]:
    return sorted(range(len(quality)), key=lambda index: -quality[index])


def check_sound(standing: Standing, n: int) -> None:
    """What holds of every standing that is not missing."""
    assert sorted(standing.order) == list(range(n))
    scores_N = np.array(standing.scores, float)
    assert np.isfinite(scores_N).all()
    assert (np.diff(scores_N[list(standing.order)]) <= 0).all()
    assert standing.winner == int(scores_N.argmax())
    assert len(standing.played.pairs) == standing.comparisons
    assert all(i != j for i, j in standing.played.pairs)


def test_every_method_has_an_entry_of_its_own():
    assert set(SINGLE) == set(METHODS)


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("judge", [soft, hard])
def test_a_planted_order_is_found_without_noise(method, judge):
    for n in SIZES:
        for seed in range(3):
            quality = planted(n, seed)
            standing = SINGLE[method](n, judge(quality), seed=seed)
            check_sound(standing, n)
            if method == "pivot" and judge is hard:
                continue  # knows only who is better than the pivot
            assert standing.winner == truth(quality)[0]
            # swiss means to rank all, but promises no more than the winner
            top = 1 if method == "swiss" else standing.top
            bottom = 0 if method == "swiss" else standing.bottom
            assert list(standing.order[:top]) == truth(quality)[:top]
            assert list(standing.order[n - bottom :]) == truth(quality)[n - bottom :]


@pytest.mark.parametrize("score", LEAGUE_SCORES)
@pytest.mark.parametrize("judge", [soft, hard])
def test_a_round_robin_finds_the_whole_planted_order(score, judge):
    for n in SIZES:
        quality = planted(n)
        standing = round_robin(n, judge(quality), score=score)
        check_sound(standing, n)
        assert list(standing.order) == truth(quality)


def closed_forms(n: int) -> dict[str, int]:
    """Comparisons as the literature has them, n >= 2."""
    return {
        "sequential": n - 1,
        "knockout": n - 1,
        "pivot": n - 1,
        "best_and_worst": math.ceil(3 * n / 2) - 2,
        "double_elimination": 2 * n - 2,
        "round_robin": n * (n - 1) // 2,
    }


@pytest.mark.parametrize("method", sorted(METHODS))
def test_comparisons_are_the_closed_form(method):
    for n in SIZES:
        # a judge without sense: what is spent must not depend on what is found
        rng = np.random.default_rng(n)
        standing = SINGLE[method](n, lambda pairs, rng=rng: rng.uniform(size=len(pairs)))
        check_sound(standing, n)
        assert standing.comparisons == cost(method, n)
        if n == 1:
            assert standing.comparisons == standing.rounds == 0
        elif method != "swiss":
            assert standing.comparisons == closed_forms(n)[method]


def test_rounds_are_as_few_as_said():
    for n in SIZES:
        judge = hard(planted(n))
        assert knockout(n, judge).rounds == math.ceil(math.log2(n))
        assert best_and_worst(n, judge).rounds <= math.ceil(math.log2(n)) + 1
        assert sequential(n, judge).rounds == n - 1
        assert pivot(n, judge).rounds == round_robin(n, judge).rounds == min(1, n - 1)
        assert double_elimination(n, judge).rounds <= 2 * math.ceil(math.log2(n)) + 1


def test_swiss_plays_its_rounds_and_avoids_rematches():
    for n in SIZES:
        for rounds in (1, 2, 3, None):
            rng = np.random.default_rng(n)
            standing = swiss(n, lambda pairs, rng=rng: rng.uniform(size=len(pairs)), rounds=rounds)
            possible = 0 if n == 1 else n - 1 + n % 2
            wanted = math.ceil(math.log2(n)) + 1 if rounds is None else rounds
            assert standing.rounds == min(wanted, possible)
            assert standing.comparisons == standing.rounds * (n // 2)
            met = Counter(frozenset(pair) for pair in standing.played.pairs)
            if standing.rounds <= n / 2:
                assert set(met.values()) <= {1}
            # nobody sits out twice
            games = Counter(index for pair in standing.played.pairs for index in pair)
            assert all(games[index] >= standing.rounds - n % 2 for index in range(n))


def matchings(players: frozenset[int]) -> Iterator[frozenset[frozenset[int]]]:
    """Every way to pair an even number of players."""
    if not players:
        yield frozenset()
        return
    first, *others = sorted(players)
    for other in others:
        for rest in matchings(players - {first, other}):
            yield rest | {frozenset((first, other))}


@pytest.mark.parametrize(("n", "rounds"), [(6, 5), (7, 6), (8, 6), (8, 7)])
def test_swiss_repeats_a_pair_only_where_every_round_would(n, rounds):
    for seed in range(40):
        rng = np.random.default_rng(seed)
        played: list[frozenset[frozenset[int]]] = []

        def compare(pairs, rng=rng, played=played):
            played.append(frozenset(map(frozenset, pairs)))
            return rng.uniform(size=len(pairs))

        swiss(n, compare, rounds=rounds, seed=seed)
        everybody = frozenset(range(n))
        met, rested = frozenset[frozenset[int]](), frozenset[int]()
        for drawn in played:
            benches = [everybody] if n % 2 == 0 else [everybody - {i} for i in everybody - rested]
            if drawn & met:
                assert all(found & met for bench in benches for found in matchings(bench))
            rested |= everybody - frozenset().union(*drawn)
            met |= drawn


def test_swiss_scores_follow_points_then_opponents():
    quality = planted(16)
    standing = swiss(16, hard(quality))
    wins = Counter(
        pair[0] if points == 1 else pair[1]
        for pair, points in zip(standing.played.pairs, standing.played.points_M, strict=True)
    )
    buchholz = [0.0] * 16
    for i, j in standing.played.pairs:
        buchholz[i] += wins[j]
        buchholz[j] += wins[i]
    expected = sorted(range(16), key=lambda index: (-wins[index], -buchholz[index], index))
    assert list(standing.order) == expected
    assert swiss(16, hard(quality), score="bradley_terry").winner == truth(quality)[0]


def test_relabelling_the_responses_relabels_the_round_robin():
    n = 9
    rng = np.random.default_rng(3)
    upper = np.triu(rng.normal(size=(n, n)), 1)
    margin = (upper - upper.T).tolist()
    new = rng.permutation(n).tolist()  # response k is the old response new[k]
    for score in LEAGUE_SCORES:
        before = round_robin(n, lambda ps: [sigma(margin[i][j]) for i, j in ps], score=score)
        after = round_robin(
            n, lambda ps: [sigma(margin[new[i]][new[j]]) for i, j in ps], score=score
        )
        np.testing.assert_allclose(
            np.array(after.scores, float), np.array(before.scores, float)[new], atol=1e-7
        )
        assert after.winner is not None and new[after.winner] == before.winner


def test_copeland_equals_brute_force():
    n = 7
    for seed in range(20):
        table = np.random.default_rng(seed).choice([0.2, 0.5, 0.9], size=(n, n))
        wins = [0.0] * n
        for i, j in combinations(range(n), 2):
            wins[i] += (table[i, j] > 0.5) + 0.5 * (table[i, j] == 0.5)
            wins[j] += (table[i, j] < 0.5) + 0.5 * (table[i, j] == 0.5)
        standing = round_robin(n, lambda pairs, table=table: [table[pair] for pair in pairs])
        np.testing.assert_allclose(np.array(standing.scores, float), np.array(wins) / (n - 1))
        # equal scores keep the order of the responses
        assert list(standing.order) == sorted(range(n), key=lambda i: (-wins[i], i))
        assert standing.ties == sum(table[pair] == 0.5 for pair in combinations(range(n), 2))


def test_soft_scores_are_means_over_opponents():
    table = {(0, 1): 0.9, (0, 2): 0.4, (1, 2): 0.7}

    def judge(pairs):
        return [table[pair] for pair in pairs]

    probability = round_robin(3, judge, score="mean_probability")
    assert probability.scores == pytest.approx([(0.9 + 0.4) / 2, (0.1 + 0.7) / 2, (0.6 + 0.3) / 2])
    logits = {pair: math.log(p / (1 - p)) for pair, p in table.items()}
    expected = [
        (logits[0, 1] + logits[0, 2]) / 2,
        (-logits[0, 1] + logits[1, 2]) / 2,
        (-logits[0, 2] - logits[1, 2]) / 2,
    ]
    assert round_robin(3, judge, score="mean_logit").scores == pytest.approx(expected)


def test_certainty_does_not_outweigh_everything():
    # response 0 beats 1 with P = 1, and is beaten by all others
    def judge(pairs):
        return [
            1.0 if pair == (0, 1) else float(pair[0] != 0 and pair[0] < pair[1]) for pair in pairs
        ]

    standing = round_robin(6, judge, score="mean_logit")
    assert np.isfinite(np.array(standing.scores, float)).all()
    assert max(np.abs(np.array(standing.scores, float))) <= MOST_LOGIT + 1e-9
    assert standing.winner != 0
    assert all(abs(margin) <= MOST_LOGIT + 1e-9 for margin in standing.played.margin_M)


def test_one_circle_of_an_odd_number_leaves_best_and_worst_apart():
    # 0 > 1 > 2 > 0: whoever skips the first round may win one bracket and lose the other
    def judge(pairs):
        return [float((j - i) % 3 == 1) for i, j in pairs]

    for seed in range(12):
        standing = best_and_worst(3, judge, seed=seed)
        check_sound(standing, 3)
        assert standing.comparisons == 3


def test_the_two_ends_are_strictly_the_ends():
    for n in range(2, 34):
        rng = np.random.default_rng(n)
        scores = best_and_worst(n, lambda ps, rng=rng: rng.uniform(size=len(ps))).scores
        ordered = sorted(np.array(scores, float))
        assert ordered[0] < ordered[1] or n == 2
        assert ordered[-1] > ordered[-2]


def test_a_tie_goes_to_the_newcomer_in_a_gauntlet():
    standing = sequential(6, lambda pairs: [0.5] * len(pairs))
    assert standing.ties == 5
    assert standing.winner == standing.played.pairs[-1][1]
    for before, after in zip(standing.played.pairs, standing.played.pairs[1:], strict=False):
        assert after[0] == before[1]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["knockout", "best_and_worst", "double_elimination"])
def test_a_tie_in_a_bracket_is_a_coin_that_the_seed_tosses(method):
    def judge(pairs):
        return [0.5] * len(pairs)

    winners = Counter(SINGLE[method](8, judge, seed=seed).winner for seed in range(800))
    # 100 each, give or take 5 standard deviations of a binomial
    assert all(abs(winners[index] - 100) < 47 for index in range(8))
    assert SINGLE[method](8, judge, seed=7) == SINGLE[method](8, judge, seed=7)


def test_a_tie_band_makes_ties_of_close_calls():
    def judge(pairs):
        return [0.56 if i < j else 0.44 for i, j in pairs]

    assert round_robin(5, judge).ties == 0
    standing = round_robin(5, judge, tie=0.1)
    assert standing.ties == 10 and set(standing.scores) == {0.5}
    assert standing.order == (0, 1, 2, 3, 4)
    assert round_robin(5, judge, tie=0.05).ties == 0


def test_byes_of_a_knockout_are_drawn_at_random():
    # with 5 responses 3 skip the first round
    idle = Counter()
    for seed in range(500):
        first = knockout(5, hard(range(5)), seed=seed).played.pairs[0]
        idle.update(set(range(5)) - set(first))
    assert all(abs(idle[index] - 300) < 55 for index in range(5))


@pytest.mark.parametrize("method", ["sequential", "knockout", "pivot", "swiss"])
def test_the_seed_decides_the_draw(method):
    def pairs_of(seed):
        return SINGLE[method](16, soft(planted(16)), seed=seed).played.pairs

    assert pairs_of(1) == pairs_of(1)
    assert pairs_of(1) != pairs_of(2)


class TestBudget:
    @pytest.mark.slow
    def test_a_part_of_the_pairs_is_connected_and_even(self):
        for n in range(2, 20):
            for budget in range(n - 1, n * (n - 1) // 2 + 1, 3):
                standing = round_robin(
                    n, soft(planted(n)), score="bradley_terry", budget=budget, seed=budget
                )
                assert standing.comparisons == budget
                assert cost("round_robin", n, budget=budget, score="bradley_terry") == budget
                pairs = standing.played.pairs
                assert len({frozenset(pair) for pair in pairs}) == budget
                assert connected(n, pairs)
                games = Counter(index for pair in pairs for index in pair)
                assert max(games.values()) - min(games.values()) <= 2

    def test_a_part_of_the_pairs_tells_the_order_to_a_judge_without_noise(self):
        quality = planted(10)
        standing = round_robin(10, soft(quality), score="bradley_terry", budget=9)
        assert list(standing.order) == truth(quality)
        centred = np.array(quality) - np.mean(quality)
        np.testing.assert_allclose(np.array(standing.scores, float), centred, atol=1e-3)

    def test_swiss_plays_fewer_rounds(self):
        assert swiss(16, soft(planted(16)), budget=39).rounds == 4
        with pytest.raises(InputError, match="swiss of 16"):
            swiss(16, soft(planted(16)), budget=31)
        with pytest.raises(InputError, match="swiss of 16"):
            swiss(16, soft(planted(16)), budget=39, rounds=5)

    @pytest.mark.parametrize("method", sorted(METHODS))
    def test_what_does_not_fit_is_refused_before_anything_is_compared(self, method):
        def judge(matches):
            raise AssertionError("compared")

        budget = cost(method, 32) - 1
        if method == "swiss":
            budget = 79
        with pytest.raises(InputError) as error:
            play(method, [1, 32], judge, budget=budget)
        message = str(error.value)
        assert "\n" not in message
        assert says(message, f"{method} of 32 responses costs {cost(method, 32)} comparisons")
        if budget >= 31:
            assert "knockout (31)" in message

    def test_a_budget_that_suffices_changes_nothing(self):
        free = round_robin(8, soft(planted(8)))
        assert round_robin(8, soft(planted(8)), budget=28) == free


def connected(n: int, pairs) -> bool:
    reached, more = {0}, True
    while more:
        new = {j for pair in pairs for i, j in (pair, pair[::-1]) if i in reached} - reached
        reached, more = reached | new, bool(new)
    return len(reached) == n


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: play("elo", [2], soft([0, 1])), "method 'elo' best_and_worst"),
        (lambda: play("knockout", [2], soft([0]), rounds=2), "knockout has no setting 'rounds'"),
        (lambda: round_robin(2, soft([0, 1]), score="borda"), "score='borda' is unknown"),  # type: ignore[arg-type]
        (lambda: swiss(4, soft(range(4)), rounds=0), "rounds=0 whole number"),
        (lambda: knockout(0, soft([])), "needs 1 response or more, and has 0"),
        (lambda: knockout(2, soft([0, 1]), tie=0.5), "tie=0.5 must lie in [0, 0.5)"),
        (lambda: cost("swiss", 8, budget=-1), "budget=-1 whole number"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(InputError, match=words(message)) as error:
        call()
    assert "\n" not in str(error.value)
