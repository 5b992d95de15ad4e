"""Drawing in waves: the rule against brute force, and runs that keep what samples promise."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_runs
from crashes import check_every_kill
from scipy import integrate, stats
from wording import words

from raft.adaptive import Adaptive, expected_gain, next_wave
from raft.cli.main import main
from raft.config.load import make_config
from raft.config.run import RunConfig
from raft.loop import run
from raft.runs.prompts import encode_texts, read_texts
from rollout.engines.toy import ToyEngine
from rollout.types import InputError, Sampling

WAVES = {"first": 2, "wave": 2, "most": 9, "cost": 0.05}


def small(root: Path, name: str = "run", **sections: Any) -> RunConfig:
    own: dict[str, Any] = {"prompts": {"per_iteration": 6}, "eval": {"prompts": 4, "k": 1}}
    found = {"run_dir": str(root / name), "iterations": 2, "keep_checkpoints": 1, **own}
    return toy_runs.config(root, **{**found, **sections})


def in_waves(root: Path, name: str = "run", **sections: Any) -> RunConfig:
    return small(root, name, sampling={"k": 5, "adaptive": WAVES}, **sections)


def rollouts(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.glob("iterations/*/rollouts.jsonl"))
    return [row for file in files for row in toy_runs.rows(file)]


def simulate(
    scores_PK: np.ndarray, adaptive: Adaptive, k: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """(samples, best score) of each prompt whose k-th sample has the k-th score; and the waves."""
    drawn_P, waves = np.full(len(scores_PK), adaptive.first), 1
    while True:
        so_far = [row[:count].tolist() for row, count in zip(scores_PK, drawn_P, strict=True)]
        wave = next_wave(so_far, adaptive, k)
        if not len(wave.rows):
            return drawn_P, np.array([max(row) for row in so_far]), waves
        drawn_P[wave.rows] += wave.size
        waves += 1


@pytest.mark.parametrize("best", [-2.0, 0.0, 1.5, 6.0])
@pytest.mark.parametrize("highest", [math.inf, 2.0])
def test_the_expected_gain_is_the_integral(best: float, highest: float) -> None:
    centre, scale, freedom, sizes = 0.3, 1.7, 6.0, np.array([1, 4, 12])
    best_1, centre_1, scale_1, freedom_1 = np.array([[best], [centre], [scale], [freedom]])
    found = expected_gain(best_1, centre_1, scale_1, freedom_1, sizes, highest)[0]
    below = stats.t(freedom, centre, scale).cdf
    expected = [
        integrate.quad(lambda x, n=n: 1 - below(x) ** n, best, highest)[0] if best < highest else 0
        for n in sizes
    ]
    assert found == pytest.approx(expected, rel=0.01, abs=1e-4)


def test_the_rule_is_the_optimal_stopping_of_a_known_distribution() -> None:
    # one sample at a time, worth its cost or not: brute force over all policies by dynamic
    # programming says to stop at exactly the scores whose expected excess is below the cost
    law, grid, cost, left = stats.t(6.0), np.linspace(-4, 8, 481), 0.1, 12
    chance = law.cdf(grid + 0.0125) - law.cdf(grid - 0.0125)
    chance /= chance.sum()
    value = grid.copy()
    for _ in range(left):
        going_on = np.array([chance @ np.interp(np.maximum(x, grid), grid, value) for x in grid])
        value = np.maximum(grid, going_on - cost)
    reservation = grid[value <= grid + 1e-12].min()
    ones = np.ones(len(grid))
    gain = expected_gain(grid, 0 * ones, ones, 6 * ones, np.array([1]))[:, 0]
    assert reservation == pytest.approx(grid[gain < cost].min(), abs=0.06)


@pytest.mark.parametrize("seed", range(3))
def test_without_cost_and_with_most_of_k_all_have_k(seed: int) -> None:
    scores_PK = np.random.default_rng(seed).normal(size=(17, 8)).round(seed)
    for first, wave in ((2, 2), (4, 3), (8, 1)):
        drawn_P, best_P, _ = simulate(scores_PK, Adaptive(first, wave, 8, 0.0), 8)
        assert drawn_P.tolist() == [8] * 17
        assert best_P.tolist() == scores_PK.max(axis=1).tolist()


@pytest.mark.parametrize("cost", [0.0, 0.1])
def test_no_more_than_the_budget_and_most_is_drawn(cost: float) -> None:
    rng = np.random.default_rng(0)
    for prompts in (1, 5, 40):
        adaptive = Adaptive(3, 4, 14, cost)
        scores_PK = rng.normal(size=(prompts, 1)) + rng.normal(size=(prompts, 14))
        drawn_P, _, waves = simulate(scores_PK, adaptive, 6)
        assert drawn_P.sum() <= 6 * prompts
        assert drawn_P.min() >= 3 and drawn_P.max() <= 14
        assert waves <= 4


def batches(name: str, rng: np.random.Generator) -> np.ndarray:
    """(P, K) scores of 32 prompts of unequal difficulty."""
    centre_P1, shape = rng.normal(size=(32, 1)), (32, 32)
    if name == "normal":
        return centre_P1 + rng.normal(size=shape)
    if name == "heavy":
        return centre_P1 + rng.standard_t(3, size=shape)
    if name == "right or wrong":
        return (rng.random(shape) < rng.beta(0.5, 0.5, size=(32, 1))).astype(float)
    return np.clip(np.round(3 + centre_P1 + rng.normal(size=shape)), 1, 5)


@pytest.mark.parametrize("name", ["normal", "heavy", "right or wrong", "ratings"])
def test_the_best_is_better_than_that_of_fixed_k_at_the_same_budget(name: str) -> None:
    rng, gains = np.random.default_rng(1), []
    for _ in range(24):
        scores_PK = batches(name, rng)
        drawn_P, best_P, _ = simulate(scores_PK, Adaptive(4, 4, 32, 0.0), 8)
        assert drawn_P.sum() <= 8 * len(drawn_P)
        gains.append(best_P.mean() - scores_PK[:, :8].max(axis=1).mean())
    assert np.mean(gains) > 2 * np.std(gains) / math.sqrt(len(gains))


def test_a_prompt_with_one_answer_stops_and_one_without_a_right_one_goes_on() -> None:
    adaptive = Adaptive(4, 4, 16, 0.02)
    # scores of many values: equal ones mean that the policy has one answer
    rng = np.random.default_rng(0)
    rows = [*rng.normal(size=(9, 4)).tolist(), [-3.0] * 4]
    assert 9 not in next_wave(rows, adaptive, 16).rows
    # right or wrong: what is right cannot get better, what is wrong may
    rows = [[0.0, 0, 1, 0], [1.0, 0, 0, 0], [0.0] * 4, [1.0] * 4]
    assert next_wave(rows, adaptive, 16).rows.tolist() == [2]


def test_missing_scores_do_not_stop_a_prompt() -> None:
    rows: list[list[float | None]] = [[1.0, 2.0, 0.0], [None, None, None], [2.5, None, 1.0]]
    assert 1 in next_wave(rows, Adaptive(3, 3, 9, 0.01), 9).rows
    nothing: list[list[float | None]] = [[None, None], [None, None]]
    assert len(next_wave(nothing, Adaptive(2, 2, 8, 0.01), 4).rows) == 0
    assert len(next_wave(nothing, Adaptive(2, 2, 8, 0.0), 4).rows) == 2


def test_a_sample_is_the_same_in_whatever_wave(tmp_path: Path) -> None:
    config = small(tmp_path)
    prompts, _ = encode_texts(config, read_texts(config))
    engine, one = ToyEngine(config.policy.model), prompts[0]
    (whole,) = engine.generate([one], Sampling(k=7), 5)
    (part,) = engine.generate([replace(one, samples=(3, 4, 5, 6))], Sampling(k=9), 5)
    assert part.completions == whole.completions[3:]
    (some,) = engine.generate([replace(one, samples=(0, 2, 6))], Sampling(k=9), 5)
    assert some.completions == tuple(whole.completions[k] for k in (0, 2, 6))


def test_without_cost_a_run_is_that_of_fixed_k(tmp_path: Path) -> None:
    fixed = run(small(tmp_path, "fixed"))
    waves = {"first": 2, "wave": 1, "most": 4, "cost": 0}
    found = run(small(tmp_path, "waves", sampling={"adaptive": waves}))
    assert toy_runs.results(found) == toy_runs.results(fixed)


def test_a_run_in_waves_draws_what_it_says(tmp_path: Path) -> None:
    folder = run(in_waves(tmp_path, gold={"kind": "function", "function": "length"}))
    found = rollouts(folder)
    counts = [len(row["responses"]) for row in found]
    assert len({*counts}) > 1, "this test wants prompts of unequal K"
    assert set(counts) <= {2, 4, 6, 8, 9}
    trained = [row for row in toy_runs.metrics(folder) if row["phase"] == "train"]
    for row, drawn in zip(trained, (counts[:6], counts[6:]), strict=True):
        assert row["rollout/samples"] == sum(drawn) <= 30
        assert row["rollout/samples_saved"] == pytest.approx(1 - sum(drawn) / 30)
        assert row["rollout/reward_missing"] == 0
    first_wave = np.mean([np.mean(row["scores"][:2]) for row in found[:6]])
    assert trained[0]["rollout/reward_mean"] == pytest.approx(first_wave)
    best = [max(row["scores"]) for row in found[:6]]
    assert trained[0]["select/reward_mean"] == pytest.approx(np.mean(best))
    for row in found:
        seeds = row["seeds"]
        assert seeds == list(range(seeds[0], seeds[0] + len(seeds)))
        per_response = ("scores", "finish_reasons", "token_ids")
        assert {len(row[name]) for name in per_response} == {len(seeds)}
    assert main(["replay", str(folder), "--quiet"]) == 0
    assert main(["report", str(folder), "--quiet"]) == 0


def test_what_a_filter_refuses_ends_no_prompt(tmp_path: Path) -> None:
    # the best score of all would end every prompt: a response of one word, which is refused
    reward = toy_runs.reward_file(
        tmp_path,
        "return [9.0 if len(c.split()) < 2 else float(len(c.split())) for c in completions]",
    )
    waves = {"first": 2, "wave": 2, "most": 12, "cost": 0.05}
    for name, least in (("all", 0), ("long", 20)):
        own = {"prompts": {"per_iteration": 24}, "select": {"min_chars": least}}
        sampling = {"k": 6, "max_new_tokens": 8, "adaptive": waves}
        folder = run(small(tmp_path, name, reward=reward, iterations=1, sampling=sampling, **own))
        begun_well = [row for row in rollouts(folder) if 9 in row["scores"][:2]]
        assert begun_well
        assert any(len(row["scores"]) > 2 for row in begun_well) == (least > 0)


@pytest.mark.parametrize("update", ["reinforce", "raft_plus_plus", "dpo", "weighted"])
def test_every_update_learns_from_unequal_k(tmp_path: Path, update: str) -> None:
    folder = run(in_waves(tmp_path, iterations=1, train={"update": update}))
    assert len({len(row["responses"]) for row in rollouts(folder)}) > 1
    assert toy_runs.metrics(folder)[1]["select/kept"] > 0


@pytest.mark.slow
def test_a_kill_at_every_change_gives_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = in_waves(tmp_path, iterations=1, eval={"prompts": 2, "k": 1})
    check_every_kill(monkeypatch, tmp_path, settings, more_than=20)


def test_two_workers_give_the_rows_of_one(tmp_path: Path) -> None:
    one = run(in_waves(tmp_path, "one"))
    two = run(in_waves(tmp_path, "two", cluster={"rollout_workers": 2, "reward_workers": 2}))
    assert toy_runs.results(two) == toy_runs.results(one)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"sampling": {"adaptive": {}, "seed_per_prompt": False}}, "seed_per_prompt"),
        ({"sampling": {"k": 3, "adaptive": {}}}, "adaptive.first 4 is more than k=3"),
        ({"sampling": {"adaptive": {"first": 2, "most": 3}}}, "adaptive.most 3 is less than k=4"),
        ({"sampling": {"adaptive": {"waves": 3}}}, "sampling.adaptive.waves: unknown key"),
        ({"sampling": {"adaptive": {}}, "select": {"strategy": "top_m", "m": 5}}, "m"),
        ({"sampling": {"adaptive": {}}, "reward": {"kind": "pairwise", "model": "m"}}, "judge"),
    ],
)
def test_what_cannot_be_drawn_in_waves_is_refused(
    tmp_path: Path, sections: dict[str, Any], expected: str
) -> None:
    given = toy_runs.settings(tmp_path, **{k: v for k, v in sections.items() if k != "reward"})
    given |= {name: value for name, value in sections.items() if name == "reward"}
    with pytest.raises(InputError, match=words(expected)):
        make_config(given)
