"""A whole RAFT run in one process over the toy policy: what it does, writes and repeats."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_runs

import raft.updates.toy
from raft.config.run import RunConfig
from raft.config.select import SelectConfig
from raft.curves.curves import drawn_points
from raft.loop import run
from raft.report import write_report
from raft.runs.folder import RunFolder, stored_policies
from raft.runs.prompts import encode_texts, prompts_of, read_texts
from raft.stored.replay import Plan, replay
from raft.stored.source import find_samples
from raft.updates.trainer import Update
from rollout.engines.toy import ToyEngine, read_toy, write_toy
from rollout.storage.rollout_store import RolloutStore
from rollout.types import (
    Completion,
    Group,
    InputError,
    Prompt,
    StaleWeightsError,
    WorkerDiedError,
)

EVAL_KEYS = (
    "iteration",
    "eval/reward_mean",
    "eval/reward_ci95",
    "eval/best_of_k",
    "eval/gold_mean",
    "eval/win_rate",
    "time/eval",
    "time/iteration",
    "policy/version",
)
TRAIN_KEYS = (
    "rollout/reward_mean",
    "select/reward_mean",
    "select/kept",
    "train/loss",
    "rollout/tokens_per_second",
    "time/generate",
    "time/score",
    "time/select",
    "time/train",
    "time/sync",
    "time/iteration",
    "policy/version",
)


def of_phase(folder: Path, phase: str) -> list[dict[str, Any]]:
    return [row for row in toy_runs.metrics(folder) if row["phase"] == phase]


def trained_ids(folder: Path) -> list[list[str]]:
    files = sorted(folder.glob("iterations/*/rollouts.jsonl"))
    return [[row["id"] for row in toy_runs.rows(file)] for file in files]


def words(text: str) -> float:
    """The reward of these runs, counted another way than `word_list` does."""
    return float(text.split().count("good") - text.split().count("bad"))


@pytest.mark.slow
def test_the_reward_rises(tmp_path: Path) -> None:
    # best of 4 on "good" minus "bad" must move a uniform policy far beyond the interval
    folder = run(toy_runs.config(tmp_path, iterations=6, train={"learning_rate": 2.0}))
    curve = [row["eval/reward_mean"] for row in of_phase(folder, "eval")]
    first = of_phase(folder, "eval")[0]
    assert len(curve) == 7
    assert curve[-1] > curve[0] + 2 * first["eval/reward_ci95"] + 1
    assert of_phase(folder, "eval")[-1]["eval/win_rate"] > 0.65


def test_tokens_of_an_iteration_are_counted(tmp_path: Path) -> None:
    folder = run(toy_runs.config(tmp_path, iterations=1))
    home = folder / "iterations/001"
    drawn, selected = toy_runs.rows(home / "rollouts.jsonl"), toy_runs.rows(home / "selected.jsonl")
    lengths = [[len(ids) for ids in row["token_ids"]] for row in drawn]
    kept = sum(len(row["token_ids"]) for row in selected)
    read = sum(
        len(row["prompt_token_ids"]) + length
        for row, own in zip(drawn, lengths, strict=True)
        for length, score in zip(own, row["scores"], strict=True)
        if score is not None
    )
    (row,) = of_phase(folder, "train")
    assert row["rollout/tokens"] == sum(map(sum, lengths)) > kept > 0
    assert row["rollout/scored_tokens"] == read > row["rollout/tokens"]
    assert row["select/tokens"] == kept
    assert row["select/tokens_thrown_away"] == row["rollout/tokens"] - kept


def test_the_run_folder_holds_what_is_promised(tmp_path: Path) -> None:
    gold = {"kind": "function", "function": "length", "arguments": {}}
    folder = run(toy_runs.config(tmp_path, gold=gold, keep_checkpoints=2))
    evaluated, trained = of_phase(folder, "eval"), of_phase(folder, "train")
    assert [row["iteration"] for row in evaluated] == [0, 1, 2, 3]
    assert [row["iteration"] for row in trained] == [1, 2, 3]
    assert all(set(EVAL_KEYS) <= row.keys() for row in evaluated)
    assert all(set(TRAIN_KEYS) <= row.keys() for row in trained)
    assert all(row["policy/version"] == row["iteration"] for row in evaluated + trained)
    for name in ("config.yaml", "env.json", "metrics.jsonl", "curves.png"):
        assert (folder / name).stat().st_size > 0
    kept = [path.parent.name for path in sorted(folder.glob("iterations/*/checkpoint"))]
    assert kept == ["002", "003"]
    assert toy_runs.hidden(folder) == []


@pytest.mark.slow
def test_checkpoints_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the weights of every iteration are there until the next; rows are those of any other run
    expected = toy_runs.results(run(toy_runs.config(tmp_path, iterations=5)))
    dropped, seen = RunFolder.drop_old_checkpoints, []

    def watched(folder: RunFolder, keep: int, *_: int) -> None:
        dropped(folder, keep, 0)
        found = [str(one.relative_to(folder.root))[11:] for one in
                 stored_policies(folder.root).values()]  # fmt: skip
        if seen[-1:] != [found]:
            seen.append(found)

    monkeypatch.setattr(RunFolder, "drop_old_checkpoints", watched)
    settings: dict[str, Any] = {"run_dir": str(tmp_path / "rare"), "checkpoint": {"every": 2}}
    settings |= {"keep_checkpoints": 1}
    run(toy_runs.config(tmp_path, iterations=3, **settings))
    assert seen == [[], ["001/policy"], ["002/checkpoint"], ["003/checkpoint"]]
    seen.clear()
    settings["checkpoint"] = {"every": 3}
    folder = run(toy_runs.config(tmp_path, iterations=5, **settings))
    assert seen[-2:] == [["003/checkpoint", "004/policy"], ["005/checkpoint"]]
    assert toy_runs.results(folder) == expected


def test_every_sample_is_kept_with_its_origin(tmp_path: Path) -> None:
    # the last version's samples come from versions 0, 1, 2 in turn; K of everything
    folder = run(toy_runs.config(tmp_path))
    for number in (1, 2, 3):
        for row in toy_runs.rows(folder / f"iterations/{number:03d}/rollouts.jsonl"):
            assert row["policy_version"] == number - 1
            lists = ("responses", "scores", "finish_reasons", "seeds", "token_ids")
            assert [len(row[key]) for key in lists] == [4] * 5
            assert len(set(row["seeds"])) == 4
            assert row["scores"] == [words(text) for text in row["responses"]]


def test_samples_come_from_the_stated_policy_and_seed(tmp_path: Path) -> None:
    # draw one stored sample again from its checkpoint, its seed and nothing else
    settings = toy_runs.config(tmp_path, keep_checkpoints=9)
    folder = run(settings)
    engine = ToyEngine(str(folder / "iterations/002/checkpoint"), version=2)
    sampling = settings.sampling
    for row in toy_runs.rows(folder / "iterations/003/rollouts.jsonl")[:5]:
        for seed, ids in zip(row["seeds"], row["token_ids"], strict=True):
            assert list(engine._draw(seed, sampling).token_ids) == ids


def test_selected_rows_are_the_best_of_each_prompt(tmp_path: Path) -> None:
    # recomputed from rollouts.jsonl with plain Python; the first of equals
    folder = run(toy_runs.config(tmp_path))
    for home in sorted(folder.glob("iterations/00[123]")):
        rollouts = toy_runs.rows(home / "rollouts.jsonl")
        expected = []
        for row in rollouts:
            best = row["scores"].index(max(row["scores"]))
            ids = (row["prompt_token_ids"], row["token_ids"][best])
            expected.append((row["id"], row["responses"][best], row["scores"][best], *ids))
        found = [
            (r["id"], r["response"], r["score"], r["prompt_token_ids"], r["token_ids"])
            for r in toy_runs.rows(home / "selected.jsonl")
        ]
        assert found == expected


def test_metrics_match_the_stored_rows(tmp_path: Path) -> None:
    folder = run(toy_runs.config(tmp_path))
    start = toy_runs.rows(folder / "iterations/000/eval.jsonl")
    for row in of_phase(folder, "eval"):
        stored = toy_runs.rows(folder / f"iterations/{row['iteration']:03d}/eval.jsonl")
        assert row["eval/reward_mean"] == pytest.approx(np.mean([r["scores"] for r in stored]))
        assert row["eval/best_of_k"] == pytest.approx(np.mean([max(r["scores"]) for r in stored]))
        wins = [
            (a > b) + 0.5 * (a == b)
            for new, old in zip(stored, start, strict=True)
            for a in new["scores"]
            for b in old["scores"]
        ]
        assert row["eval/win_rate"] == pytest.approx(np.mean(wins))
    for row in of_phase(folder, "train"):
        home = folder / f"iterations/{row['iteration']:03d}"
        scores = [r["scores"] for r in toy_runs.rows(home / "rollouts.jsonl")]
        assert row["rollout/reward_mean"] == pytest.approx(np.mean(scores))
        assert row["select/reward_mean"] == pytest.approx(np.mean(np.max(scores, axis=1)))


def test_the_update_is_maximum_likelihood_on_the_selected_tokens(tmp_path: Path) -> None:
    # one step from uniform logits: logits change by (share of each token - 1/V)
    folder = run(toy_runs.config(tmp_path, iterations=1, keep_checkpoints=1))
    chosen = toy_runs.rows(folder / "iterations/001/selected.jsonl")
    tokens = [token for row in chosen for token in row["token_ids"]]
    share = np.bincount(tokens, minlength=len(toy_runs.WORDS)) / len(tokens)
    logits = ToyEngine(str(folder / "iterations/001/checkpoint"))._logits
    np.testing.assert_allclose(logits, share - 1 / len(toy_runs.WORDS), atol=1e-12)


@pytest.mark.slow
def test_held_out_prompts_are_never_trained_on(tmp_path: Path) -> None:
    # by text, with a corpus that repeats itself under other ids
    settings = toy_runs.settings(tmp_path, iterations=5)
    prompts = Path(settings["prompts"]["path"])
    prompts.write_text(prompts.read_text() * 2)
    folder = run(toy_runs.config(tmp_path, iterations=5))
    held_out = {r["prompt"] for r in toy_runs.rows(folder / "iterations/000/eval.jsonl")}
    files = folder.glob("iterations/*/rollouts.jsonl")
    trained = {row["prompt"] for file in files for row in toy_runs.rows(file)}
    assert len(held_out) > 0 and trained
    assert not held_out & trained


def test_a_held_out_file_is_never_trained_on(tmp_path: Path) -> None:
    settings = toy_runs.settings(tmp_path)
    lines = Path(settings["prompts"]["path"]).read_text().splitlines(keepends=True)
    (tmp_path / "held_out.jsonl").write_text("".join(lines[10:20]))
    own = {"prompts": str(tmp_path / "held_out.jsonl")}
    own_run = toy_runs.config(tmp_path, eval=own)
    prompts, held_out = encode_texts(own_run, read_texts(own_run))
    assert len(prompts) == 50 and len(held_out) == 10
    assert not {p.content for p in prompts} & {p.content for p in held_out}


def test_the_same_held_out_prompts_and_seeds_every_time(tmp_path: Path) -> None:
    folder = run(toy_runs.config(tmp_path))
    rows = [toy_runs.rows(file) for file in sorted(folder.glob("iterations/*/eval.jsonl"))]
    origins = [[(row["id"], row["seeds"]) for row in of_one] for of_one in rows]
    assert len(origins) == 4 and all(one == origins[0] for one in origins)


@pytest.mark.slow
def test_prompts_are_taken_without_replacement(tmp_path: Path) -> None:
    # 50 prompts in slices of 12: four disjoint slices, then the rest and a new round
    folder = run(toy_runs.config(tmp_path, iterations=8))
    batches = trained_ids(folder)
    assert all(len(set(batch)) == 12 for batch in batches)
    assert len({one for batch in batches[:4] for one in batch}) == 48
    assert len({one for batch in batches[:5] for one in batch}) == 50


@pytest.mark.slow
def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first = run(toy_runs.config(tmp_path, run_dir=str(tmp_path / "a")))
    second = run(toy_runs.config(tmp_path, run_dir=str(tmp_path / "b")))
    other = run(toy_runs.config(tmp_path, run_dir=str(tmp_path / "c"), seed=4))
    assert toy_runs.results(first) == toy_runs.results(second)
    assert toy_runs.lasting(first) == toy_runs.lasting(second)
    chosen = "iterations/001/selected.jsonl"
    assert toy_runs.results(first)[chosen] != toy_runs.results(other)[chosen]


@pytest.mark.slow
def test_the_number_of_workers_changes_no_row(tmp_path: Path) -> None:
    one = run(toy_runs.config(tmp_path, run_dir=str(tmp_path / "a")))
    many = {"address": "inline", "rollout_workers": 3, "reward_workers": 2}
    three = run(toy_runs.config(tmp_path, run_dir=str(tmp_path / "b"), cluster=many))
    assert toy_runs.results(one) == toy_runs.results(three)
    assert toy_runs.lasting(one) == toy_runs.lasting(three)


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    settings = toy_runs.config(tmp_path)
    folder = run(settings)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*.*")}
    run(settings)
    after = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*.*")}
    before.pop(folder / "run.lock")
    after.pop(folder / "run.lock")
    assert before == after


@pytest.mark.slow
def test_more_iterations_continue_as_one_longer_run(tmp_path: Path) -> None:
    straight = run(toy_runs.config(tmp_path, run_dir=str(tmp_path / "a"), iterations=5))
    run(toy_runs.config(tmp_path, run_dir=str(tmp_path / "b"), iterations=2))
    continued = run(toy_runs.config(tmp_path, run_dir=str(tmp_path / "b"), iterations=5))
    assert toy_runs.results(straight) == toy_runs.results(continued)
    assert toy_runs.lasting(straight) == toy_runs.lasting(continued)


def test_fewer_iterations_redo_nothing(tmp_path: Path) -> None:
    # with eval.every 2, iteration 1 was never evaluated, and no policy of version 1 speaks any more
    own = {"prompts": 10, "k": 2, "every": 2}
    folder = run(toy_runs.config(tmp_path, iterations=4, eval=own))
    before = toy_runs.results(folder)
    run(toy_runs.config(tmp_path, iterations=1, eval=own))
    assert toy_runs.results(folder) == before


def test_evaluating_now_and_then(tmp_path: Path) -> None:
    folder = run(toy_runs.config(tmp_path, iterations=5, eval={"prompts": 10, "every": 2}))
    assert [row["iteration"] for row in of_phase(folder, "eval")] == [0, 2, 4, 5]
    assert all(row["time/iteration"] > 0 for row in of_phase(folder, "train"))


@pytest.mark.slow
@pytest.mark.parametrize("held_out, k, per_iteration, evaluated", [
    (10, 1, 12, [0, 2, 4, 5]),  # 70 held-out responses' worth: 48 are drawn in an iteration
    (10, 2, 12, [0, 3, 5]),
    (3, 1, 12, [0, 1, 2, 3, 4, 5]),
    (20, 8, 1, [0, 5]),
])  # fmt: skip
def test_evaluations_are_so_rare_that_they_cost_little(
    tmp_path: Path, held_out: int, k: int, per_iteration: int, evaluated: list[int]
) -> None:
    own = {"prompts": held_out, "k": k, "every": None}
    batch = {"per_iteration": per_iteration}
    folder = run(toy_runs.config(tmp_path, iterations=5, eval=own, prompts=batch))
    assert [row["iteration"] for row in of_phase(folder, "eval")] == evaluated


@pytest.mark.slow
def test_how_often_is_evaluated_may_change(tmp_path: Path) -> None:
    run(toy_runs.config(tmp_path, iterations=2, eval={"every": 2}))
    folder = run(toy_runs.config(tmp_path, iterations=4, eval={"every": 1}))
    assert [row["iteration"] for row in of_phase(folder, "eval")] == [0, 2, 3, 4]


def test_no_iterations_is_an_evaluation(tmp_path: Path) -> None:
    folder = run(toy_runs.config(tmp_path, iterations=0))
    assert [row["phase"] for row in toy_runs.metrics(folder)] == ["eval"]


def test_best_and_worst_writes_pairs(tmp_path: Path) -> None:
    folder = run(toy_runs.config(tmp_path, select={"strategy": "best_and_worst"}))
    rollouts = {row["id"]: row for row in toy_runs.rows(folder / "iterations/001/rollouts.jsonl")}
    chosen = toy_runs.rows(folder / "iterations/001/selected.jsonl")
    differing = [key for key, row in rollouts.items() if len(set(row["scores"])) > 1]
    assert [row["id"] for row in chosen] == differing
    for row in chosen:
        scores = rollouts[row["id"]]["scores"]
        assert (row["score"], row["rejected"]["score"]) == (max(scores), min(scores))
        assert words(row["rejected"]["response"]) == min(scores)


def test_threshold_keeps_what_reaches_it(tmp_path: Path) -> None:
    folder = run(
        toy_runs.config(tmp_path, select={"strategy": "threshold", "minimum": 1.0}, iterations=1)
    )
    rollouts = toy_runs.rows(folder / "iterations/001/rollouts.jsonl")
    expected = [s for row in rollouts for s in row["scores"] if s >= 1]
    kept = [row["score"] for row in toy_runs.rows(folder / "iterations/001/selected.jsonl")]
    assert kept == expected
    assert of_phase(folder, "train")[0]["select/kept"] == len(expected)


def test_missing_scores_are_never_selected(tmp_path: Path) -> None:
    # NaN for every response with the word that the reward loves most
    body = "return [float('nan') if 'good' in c else float(len(c)) for c in completions]"
    reward = {**toy_runs.reward_file(tmp_path, body), "non_finite": "missing"}
    folder = run(toy_runs.config(tmp_path, reward=reward))
    trained = of_phase(folder, "train")
    for row in trained:
        home = folder / f"iterations/{row['iteration']:03d}"
        assert all("good" not in r["response"] for r in toy_runs.rows(home / "selected.jsonl"))
        scores = [s for r in toy_runs.rows(home / "rollouts.jsonl") for s in r["scores"]]
        assert row["rollout/reward_missing"] == scores.count(None) > 0
        assert row["select/refused_not_finite"] == scores.count(None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("update", "idle"),
    [
        ("reinforce", True),
        ("dpo", True),
        ({"kind": "weighted", "weight": "standardized"}, True),
        ("weighted", False),  # by a softmax: equal scores count alike
        ("sft", False),
    ],
)
def test_an_iteration_of_equal_scores_learns_nothing_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, update: object, idle: bool
) -> None:
    mix = {} if update == "dpo" else {"mix": {"path": str(tmp_path / "prompts.jsonl")}}
    train = {"update": update, "learning_rate": 1.0, **mix}
    settings = toy_runs.config(tmp_path, train=train, reward=toy_runs.equal_until(tmp_path, 3))
    folder = run(settings)
    rows = of_phase(folder, "train")
    assert [row["select/kept"] > 0 for row in rows] == [not idle, not idle, True]
    assert [any(key.startswith("train/") for key in row) for row in rows] == [
        not idle, not idle, True,
    ]  # fmt: skip
    told = [line for line in caplog.messages if "learns nothing" in line]
    assert len(told) == 2 * idle
    # each version is drawn from, and those without an update are the policy before
    home = folder / "iterations"
    drawn = [toy_runs.rows(home / f"{n:03d}/rollouts.jsonl") for n in (1, 2, 3)]
    assert [{row["policy_version"] for row in one} for one in drawn] == [{0}, {1}, {2}]
    held_out = [
        [row["responses"] for row in toy_runs.rows(home / f"{n:03d}/eval.jsonl")] for n in range(4)
    ]
    assert (held_out[2] == held_out[0]) is idle
    assert ((home / "002/checkpoint").exists(), (home / "003/checkpoint").exists()) == (
        not idle,
        True,
    )
    assert toy_runs.rows(home / "003/selected.jsonl")


@pytest.mark.parametrize(
    ("own", "idle"),
    [
        ({"keep_checkpoints": 1}, 3),
        ({"keep_checkpoints": 2, "checkpoint": {"every": 3}}, 5),
    ],
)
def test_the_policy_that_drew_stays_where_the_one_after_learned_nothing(
    tmp_path: Path, own: dict[str, Any], idle: int
) -> None:
    # with overlap update idle + 2 has a ratio to the policy before the idle one
    home = str(tmp_path / "run/iterations")
    now, later = f"{home}/{idle:03d}", f"{home}/{idle + 1:03d}"
    body = (
        f"idle = Path({now!r}).exists() and not Path({later!r}).exists()\n"
        "return [1.0 if idle else float(c.count('good')) for c in completions]\n"
    )
    train = {"update": "reinforce", "learning_rate": 1.0}
    reward = toy_runs.reward_file(tmp_path, body)
    settings = {"overlap": 1, "iterations": idle + 4, "train": train, "reward": reward, **own}
    settings["monitor"] = {"idle_patience": None}
    folder = run(toy_runs.config(tmp_path, **settings))
    kept = [row["select/kept"] > 0 for row in of_phase(folder, "train")]
    assert kept == [number != idle for number in range(1, idle + 5)]


def test_a_trainer_of_fresh_optimizers_begins_again_from_the_last_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    train = raft.updates.toy.ToyTrainer.train

    def dying(self: Any, update: Update) -> dict[str, float | int]:
        made.append(Path(update.rows).parent.name)
        if made.count("004") == 1 and made[-1] == "004":
            raise WorkerDiedError("killed")
        return train(self, update)

    monkeypatch.setattr(raft.updates.toy.ToyTrainer, "train", dying)
    settings = {"optimizer": "fresh", "learning_rate": 1.0}
    folder = run(toy_runs.config(tmp_path, iterations=5, train=settings, keep_checkpoints=1))
    assert made == ["001", "002", "003", "004", "004", "005"]
    monkeypatch.setattr(raft.updates.toy.ToyTrainer, "train", train)
    straight = toy_runs.config(
        tmp_path, run_dir=str(tmp_path / "straight"), iterations=5, train=settings
    )
    assert toy_runs.results(folder) == toy_runs.results(run(straight))


def test_a_run_without_a_hint_of_a_preference_ends_when_its_patience_does(tmp_path: Path) -> None:
    # of the whole run nothing was learned: it says so again until it may wait longer
    def settings(patience: int | None) -> RunConfig:
        return toy_runs.config(
            tmp_path,
            iterations=4,
            train={"update": "reinforce", "learning_rate": 1.0},
            reward=toy_runs.equal_until(tmp_path, 4),
            monitor={"idle_patience": patience},
        )

    for _ in range(2):
        with pytest.raises(InputError, match="nothing was learned in 2 iterations in a row"):
            run(settings(2))
        assert len(of_phase(tmp_path / "run", "train")) == 2
    rows = of_phase(run(settings(None)), "train")
    assert [row["select/kept"] > 0 for row in rows] == [False, False, False, True]


@pytest.mark.slow
def test_the_control_is_the_same_run_by_scores_that_say_nothing(tmp_path: Path) -> None:
    settings = toy_runs.config(
        tmp_path,
        iterations=6,
        control={"every": 2},
        train={"update": "reinforce", "learning_rate": 2.0},
    )
    folder = run(settings)
    without = run(toy_runs.config(
        tmp_path, iterations=6, run_dir=str(tmp_path / "alone"),
        train={"update": "reinforce", "learning_rate": 2.0},
    ))  # fmt: skip
    assert toy_runs.results(folder) == toy_runs.results(without)
    control = folder / "control"
    assert [row["iteration"] for row in of_phase(control, "train")] == [2, 4, 6]
    assert [row["iteration"] for row in of_phase(control, "eval")] == list(range(7))
    last = of_phase(folder, "eval")[-1]
    others = [row["eval/reward_mean"] for row in of_phase(control, "eval")]
    assert last["eval/reward_mean"] > max(others) + last["eval/reward_ci95"]
    for number in (2, 4, 6):
        home, own = folder / f"iterations/{number:03d}", control / f"iterations/{number:03d}"
        drawn, learned = (
            toy_runs.rows(own / "rollouts.jsonl"),
            toy_runs.rows(own / "selected.jsonl"),
        )
        assert [row["id"] for row in drawn] == [
            row["id"] for row in toy_runs.rows(home / "rollouts.jsonl")
        ]
        assert {row["policy_version"] for row in drawn} == {number - 1}
        # advantages are those of the prompt's scores, in another order
        for row in drawn:
            scores = np.array(row["scores"])
            expected = scores - (scores.sum() - scores) / (len(scores) - 1)
            given = [one["weight"] for one in learned if one["id"] == row["id"]]
            assert np.allclose(sorted(given), sorted(expected))
    # beside the run's in curves and report, and replayed as it was
    labels = {point["setting"] for point in drawn_points([folder])}
    assert labels == {"run", "run control"}
    assert drawn_points([folder, control])
    page = write_report(folder).read_text()
    assert "rollouts of control" in page
    source = find_samples(str(control))
    assert set(replay(source, Plan(SelectConfig().filters())).same_as_selected.values()) == {True}
    before = toy_runs.metrics(control)
    run(settings)
    assert toy_runs.metrics(control) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "address", ["inline", pytest.param("local", marks=[pytest.mark.ray, pytest.mark.slow])]
)
def test_overlapping_draws_by_the_policy_before_the_one_that_trains(
    tmp_path: Path, address: str
) -> None:
    train = {"update": "raft_plus_plus", "learning_rate": 1.0, "epochs": 2}
    own: dict[str, Any] = {"overlap": 1, "iterations": 4, "train": train, "keep_checkpoints": 1}
    folder = run(toy_runs.config(tmp_path, cluster={"address": address}, **own))
    home = folder / "iterations"
    drawn = [toy_runs.rows(home / f"{n:03d}/rollouts.jsonl") for n in (1, 2, 3, 4)]
    assert [{row["policy_version"] for row in rows} for rows in drawn] == [{0}, {0}, {1}, {2}]
    assert toy_runs.results(folder) == toy_runs.results(
        run(toy_runs.config(tmp_path, run_dir=str(tmp_path / "inline"), **own))
    )
    # the update of iteration 4 by its formula: the ratio is to version 2, the policy is version 3
    kept = run(toy_runs.config(tmp_path, **{**own, "run_dir": str(tmp_path / "kept"),
                                            "keep_checkpoints": 9})) / "iterations"  # fmt: skip
    logits = {n: np.array(read_toy(str(kept / f"{n:03d}/checkpoint"))[1]) for n in (2, 3, 4)}
    log_p = {n: one - np.logaddexp.reduce(one) for n, one in logits.items()}
    rows = toy_runs.rows(kept / "004/selected.jsonl")
    tokens = np.array([token for row in rows for token in row["token_ids"]])
    now = logits[3]
    for _ in range(2):
        p = np.exp(now - np.logaddexp.reduce(now))
        ratio = (p / np.exp(log_p[2]))[tokens]
        slope = np.where(ratio <= 1.2, -ratio, 0.0)
        grad = np.bincount(tokens, slope, minlength=len(p)) - slope.sum() * p
        now = now - 1.0 * grad / len(tokens)
    assert np.allclose(now, logits[4], atol=1e-9)


def test_filters_are_counted(tmp_path: Path) -> None:
    select = {"allow_truncated": False, "reject_pattern": "bad", "unique": True}
    folder = run(toy_runs.config(tmp_path, select=select, iterations=1))
    chosen = toy_runs.rows(folder / "iterations/001/selected.jsonl")
    assert all(r["finish_reason"] == "stop" and "bad" not in r["response"] for r in chosen)
    rollouts = toy_runs.rows(folder / "iterations/001/rollouts.jsonl")
    rejected = sum("bad" in text for row in rollouts for text in row["responses"])
    assert of_phase(folder, "train")[0]["select/refused_rejected"] == rejected


def test_changed_prompts_are_refused(tmp_path: Path) -> None:
    # the config is the same, its prompt file is not: stored samples answer other questions
    settings = toy_runs.config(tmp_path, iterations=1)
    run(settings)
    toy_runs.write_prompts(tmp_path / "prompts.jsonl", 61)
    with pytest.raises(InputError, match="prompts"):
        run(toy_runs.config(tmp_path, iterations=2))


def test_another_config_is_refused_once_samples_exist(tmp_path: Path) -> None:
    run(toy_runs.config(tmp_path, iterations=1))
    with pytest.raises(InputError, match=r"sampling\.temperature 1\.0 → 0\.7"):
        run(toy_runs.config(tmp_path, sampling={"temperature": 0.7}))


def test_a_mistake_may_be_mended_before_the_first_sample(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        run(toy_runs.config(tmp_path, prompts={"path": str(tmp_path / "promts.jsonl")}))
    with pytest.raises(InputError, match="no such reward function"):
        run(toy_runs.config(tmp_path, reward={"function": "word_lits"}))
    assert run(toy_runs.config(tmp_path)).is_dir()


@pytest.mark.slow
def test_an_engine_that_keeps_its_old_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # it claims the new version and holds the old weights
    def claim(engine: ToyEngine, path: str, version: int) -> None:
        engine.version = version

    monkeypatch.setattr(ToyEngine, "load_weights", claim)
    with pytest.raises(StaleWeightsError, match="does not hold policy version 1"):
        run(toy_runs.config(tmp_path))
    monkeypatch.undo()
    # nothing was drawn under the wrong weights: going on gives the undisturbed run
    folder = run(toy_runs.config(tmp_path))
    straight = run(toy_runs.config(tmp_path, run_dir=str(tmp_path / "straight")))
    assert toy_runs.results(folder) == toy_runs.results(straight)


def test_one_token_prompts_do_not_disarm_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_runs.settings(tmp_path)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "tree"}\n{"prompt": "house"}\n' * 20)
    monkeypatch.setattr(ToyEngine, "load_weights", lambda e, _, v: setattr(e, "version", v))
    with pytest.raises(StaleWeightsError):
        run(toy_runs.config(tmp_path, prompts={"per_iteration": 5}, eval={"prompts": 1}))


def test_engine_and_trainer_must_agree_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyEngine, "log_probs", lambda _, ids: [-1.0] * (len(ids) - 1))
    with pytest.raises(StaleWeightsError, match="version 0"):
        run(toy_runs.config(tmp_path))


def test_an_engine_that_forgets_a_prompt_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ToyEngine.generate

    def forgetful(engine: ToyEngine, prompts: list[Prompt], *rest: Any, **named: Any) -> Any:
        return original(engine, prompts[1:], *rest, **named)

    monkeypatch.setattr(ToyEngine, "generate", forgetful)
    with pytest.raises(RuntimeError, match="1 prompts unanswered"):
        run(toy_runs.config(tmp_path))


def test_samples_of_another_version_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ToyEngine.generate

    def liar(engine: ToyEngine, *rest: Any, **named: Any) -> Any:
        for group in original(engine, *rest, **named):
            yield dataclasses.replace(group, policy_version=group.policy_version + 1)

    monkeypatch.setattr(ToyEngine, "generate", liar)
    with pytest.raises(StaleWeightsError, match="drawn by policy version 1, asked for 0"):
        run(toy_runs.config(tmp_path))


def test_a_store_refuses_samples_of_another_version(tmp_path: Path) -> None:
    prompt = Prompt("a", "tree")
    store = RolloutStore(tmp_path, "rollouts", [prompt], version=2)
    group = Group(prompt, (Completion(" x", (1,), "stop", 0),), policy_version=3)
    with pytest.raises(StaleWeightsError, match="version 3, this file is of version 2"):
        store.add_samples(group)


def test_training_that_diverges_keeps_the_last_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # metrics must hold no NaN, and a checkpoint without a usable result must not count as one
    from raft.updates.toy import ToyTrainer

    def diverging(self: ToyTrainer, update: Update) -> Any:
        assert update.out_dir is not None
        write_toy(update.out_dir, toy_runs.WORDS, [0.0])
        raise InputError("train.learning_rate", "training diverged", "lower it")

    monkeypatch.setattr(ToyTrainer, "train", diverging)
    with pytest.raises(InputError, match="diverged"):
        run(toy_runs.config(tmp_path))
    assert not list((tmp_path / "run").glob("iterations/*/checkpoint"))


def test_a_batch_is_what_the_schedule_says(tmp_path: Path) -> None:
    settings: RunConfig = toy_runs.config(tmp_path)
    folder = run(settings)
    prompts, _ = encode_texts(settings, read_texts(settings))
    expected = [[p.id for p in prompts_of(t, prompts, 12, settings.seed)] for t in (1, 2, 3)]
    assert trained_ids(folder) == expected


def test_what_a_reward_function_prints_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO", logger="raft")
    body = "print('seen', len(completions), chr(27))\nreturn [float(len(c)) for c in completions]"
    run(toy_runs.config(tmp_path, reward=toy_runs.reward_file(tmp_path, body), iterations=0))
    printed = [line for line in caplog.messages if "prints: seen 20 " in line]
    assert printed and "\x1b" not in printed[0] and "seen" not in capsys.readouterr().out


def test_prompts_that_begin_the_answer_are_continued_in_a_run(tmp_path: Path) -> None:
    words = [f"{first} {second}" for first in ("tree", "house", "river") for second in "abcdefgh"]
    asked = [{"role": "user", "content": text} for text in words]
    begun = {"role": "assistant", "content": "good house "}
    toy_runs.write_rows(tmp_path / "begun.jsonl", ({"prompt": [one, begun]} for one in asked))
    toy_runs.write_rows(tmp_path / "plain.jsonl", ({"prompt": [one]} for one in asked))
    stored = {}
    for name in ("plain", "begun"):
        config = toy_runs.config(
            tmp_path, iterations=1, run_dir=str(tmp_path / name), policy={"template": "hh"},
            prompts={"path": str(tmp_path / f"{name}.jsonl")}, eval={"prompts": 4},
        )  # fmt: skip
        folder = run(config)
        rows = toy_runs.rows(folder / "iterations/001/rollouts.jsonl")
        stored[name] = {row["prompt"][0]["content"]: row for row in rows}
    assert stored["begun"] and all(row["prompt"][1] == begun for row in stored["begun"].values())
    good, house = (toy_runs.WORDS.index(word) for word in ("good", "house"))
    both = stored["begun"].keys() & stored["plain"].keys()
    assert both
    for text in both:
        # the policy goes on behind the two words, with nothing between them
        ids = stored["begun"][text]["prompt_token_ids"]
        assert ids == [*stored["plain"][text]["prompt_token_ids"], good, house]
    selected = toy_runs.rows(tmp_path / "begun/iterations/001/selected.jsonl")
    assert selected and all(row["prompt"][1] == begun for row in selected)
