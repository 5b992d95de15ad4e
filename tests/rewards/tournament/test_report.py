"""The report: cost, ties, position bias and contradictions, against brute force."""

from __future__ import annotations

import math
from itertools import combinations, permutations

import numpy as np
import pytest

from rewards.tournament import Report, play
from rewards.tournament.report import intransitive_triples
from rewards.tournament.types import Played
from rewards.tournament.verdicts import Verdicts


def brute_force(beats, met) -> tuple[int, int]:
    circles = triples = 0
    for three in combinations(range(len(beats)), 3):
        if not all(met[i][j] for i, j in combinations(three, 2)):
            continue
        triples += 1
        circles += any(
            beats[a][b] and beats[b][c] and beats[c][a] for a, b, c in permutations(three)
        )
    return circles, triples


@pytest.mark.parametrize("seed", range(20))
def test_intransitive_triples_equal_brute_force(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 10))
    pairs = [tuple(rng.permutation(pair).tolist()) for pair in combinations(range(n), 2)]
    pairs = [pair for pair in pairs if rng.uniform() < 0.8] or [(0, 1)]
    points = rng.choice([0.0, 0.5, 1.0], size=len(pairs), p=[0.45, 0.1, 0.45])
    beats, met = np.zeros((n, n), bool), np.zeros((n, n), bool)
    for (i, j), share in zip(pairs, points, strict=True):
        beats[i, j], beats[j, i] = share > 0.5, share < 0.5
        met[i, j] = met[j, i] = True
    played = Played(pairs=tuple(pairs), points_M=tuple(points))  # type: ignore[arg-type]
    assert intransitive_triples(played) == brute_force(beats, met)


def test_no_comparisons_make_no_triples():
    assert intransitive_triples(Played()) == (0, 0)
    report = Report()
    assert report.forward_passes == 0
    shares = report.position_bias, report.inconsistency, report.flip_share
    assert all(map(math.isnan, (*shares, report.intransitive_share)))


def test_position_bias_of_a_planted_judge():
    # margin m, and log-odds b more for whoever is shown first
    rng = np.random.default_rng(0)
    quality, bias = rng.normal(size=(40, 6)), 0.8

    seen = []

    def judge(matches):
        margin = np.array([quality[p, i] - quality[p, j] for p, i, j in matches])
        seen.extend(margin)
        return Verdicts.from_log_odds(margin + bias, -margin + bias)

    report = Report.of(play("round_robin", [6] * 40, judge))
    margin = np.array(seen)
    shown_first = 1 / (1 + np.exp(-(margin + bias)))
    shown_second = 1 - 1 / (1 + np.exp(-(-margin + bias)))
    assert report.both_orders == report.comparisons == 40 * 15
    assert report.forward_passes == 2 * 40 * 15
    assert report.position_bias == pytest.approx(np.mean(shown_first - shown_second))
    assert report.inconsistency == pytest.approx(np.mean(np.abs(shown_first - shown_second)))
    flips = (shown_first - 0.5) * (shown_second - 0.5) < 0
    assert report.flip_share == pytest.approx(np.mean(flips)) and 0.1 < report.flip_share < 0.9
    assert report.intransitive == 0 and report.triples == 40 * 20


def test_biases_of_opposite_sign_cancel_in_the_mean_only():
    def judge(matches):
        sign = np.array([1.0 if match.prompt else -1.0 for match in matches])
        return Verdicts.from_log_odds(sign, sign)

    report = Report.of(play("round_robin", [4, 4], judge))
    assert report.position_bias == pytest.approx(0)
    assert report.inconsistency == pytest.approx(math.tanh(0.5))
    # every one is a tie on the average, and goes to another side in each order
    assert report.ties == report.flips == report.comparisons == 12


def test_an_unbiased_judge_flips_nothing():
    def judge(matches):
        margin = np.array([0.1 * (match.second - match.first) for match in matches])
        return Verdicts.from_log_odds(margin, -margin)

    report = Report.of(play("round_robin", [8], judge))
    assert report.flips == 0 and report.inconsistency == 0


def test_probabilities_alone_say_nothing_about_position():
    report = Report.of(play("round_robin", [3], lambda matches: [0.5, 0.6, 0.7]))
    assert report.comparisons == 3 and report.ties == 1
    assert report.both_orders == 0 and math.isnan(report.position_bias)


def test_missing_prompts_are_counted_and_reports_add_up():
    def judge(matches):
        return [None if match.prompt == 2 else 0.8 for match in matches]

    standings = play("knockout", [4, 4, 4], judge)
    report = Report.of(standings)
    assert (report.prompts, report.missing, report.comparisons) == (3, 1, 3 + 3 + 2)
    assert Report.of(standings[:1]) + Report.of(standings[1:]) == report
