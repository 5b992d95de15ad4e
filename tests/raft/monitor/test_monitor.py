"""The monitor in whole runs: what it measures, when it speaks, and how it stops."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_runs
from crashes import Crash, folders_of_kills

from raft.loop import run
from raft.monitor.kl import LogProbWorker
from raft.monitor.log_probs import Row
from raft.runs.folder import RunFolder
from rollout.engines.toy import read_toy, write_toy
from rollout.types import InputError

MANY = ("</s>", "good", *(f"w{number}" for number in range(38)), "<unk>")
# the share of a favourite word: the policy need say nothing else
HACKABLE = "return [c.split().count('good') / max(1, len(c.split())) for c in completions]"
# variety, whatever it is about
HONEST = "return [float(len(set(c.split()))) for c in completions]"
# good up to a point, like most things
PEAKED = "return [-abs(c.split().count('good') - 4.0) for c in completions]"


def settings(root: Path, body: str, **sections: Any) -> Any:
    """A policy of forty words, rewarded by a function of this body."""
    if not (root / "policy").exists():
        write_toy(root / "policy", MANY, [1.0] + [0.0] * (len(MANY) - 1))
    own: dict[str, Any] = {
        "reward": toy_runs.reward_file(root, body),
        "iterations": 12,
        "eval": {"prompts": 16, "k": 4, "every": 1},
        "sampling": {"k": 8, "max_new_tokens": 16},
        "train": {"learning_rate": 6.0},
    }
    return toy_runs.settings(root, **{**own, **sections})


def config(root: Path, body: str, **sections: Any) -> Any:
    return toy_runs.make_config(settings(root, body, **sections))


def evaluated(folder: Path) -> list[dict[str, Any]]:
    return [row for row in toy_runs.metrics(folder) if row["phase"] == "eval"]


def guards(folder: Path) -> list[dict[str, Any]]:
    path = folder / "guards.jsonl"
    return toy_runs.rows(path) if path.exists() else []


def stopped(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "stopped.json").read_text())


# a hackable reward


@pytest.mark.slow
def test_a_hacked_reward_is_named_and_ends_the_run(tmp_path: Path) -> None:
    monitor = {"stop_on": ["ngram_jump"]}
    folder = run(config(tmp_path, HACKABLE, monitor=monitor, keep_checkpoints=1))
    stop = stopped(folder)
    assert 0 < stop["iteration"] < 12
    assert [row["iteration"] for row in evaluated(folder)] == list(range(stop["iteration"] + 1))
    assert stop["guard"] == "ngram_jump" and "'good' now" in stop["message"]
    assert guards(folder)[-1] == {
        "iteration": stop["iteration"],
        "guard": "ngram_jump",
        "message": stop["message"],
        "stops": True,
    }
    # what it names is what was said: the share in the message, counted again
    last = toy_runs.rows(folder / f"iterations/{stop['iteration']:03d}/eval.jsonl")
    words = [word for row in last for text in row["responses"] for word in text.split()]
    ngrams = json.loads((folder / f"iterations/{stop['iteration']:03d}/ngrams.json").read_text())
    [good] = [jump for jump in ngrams["jumps"] if jump["ngram"] == "good"]
    # the end of a text is no word of it; symbols in front of `unk` are
    assert good["words"] == pytest.approx(
        Counter(words)["good"] / (len(words) + 2 * Counter(words)["<unk>"]), abs=1e-4
    )
    assert (folder / "curves.png").exists()
    assert toy_runs.hidden(folder) == []


@pytest.mark.slow
def test_without_stop_on_it_warns_and_goes_on(tmp_path: Path) -> None:
    folder = run(config(tmp_path, HACKABLE, iterations=8))
    said = guards(folder)
    assert len(evaluated(folder)) == 9 and not (folder / "stopped.json").exists()
    assert said and not any(row["stops"] for row in said)
    # once, not at every evaluation from there on
    assert sum("'good' now" in row["message"] for row in said) == 1
    assert max(Counter((row["guard"], row["message"]) for row in said).values()) == 1
    assert evaluated(folder)[-1]["ngram_jumps"][0].startswith("'good' now")


@pytest.mark.slow
def test_what_gold_rewards_too_is_noted_and_no_alarm_until_gold_falls(tmp_path: Path) -> None:
    gold = toy_runs.reward_file(tmp_path, PEAKED, name="gold.py")
    folder = run(config(tmp_path, HACKABLE, gold=gold, iterations=8))
    rows = evaluated(folder)
    peak = int(np.argmax([row["eval/gold_mean"] for row in rows]))
    noted = [row["iteration"] for row in rows if "ngram_jumps" in row]
    told = [row["iteration"] for row in guards(folder) if row["guard"] == "ngram_jump"]
    assert noted[0] <= peak < told[0]
    assert noted == list(range(noted[0], 9)) and len(told) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_honest_run_is_silent(tmp_path: Path, seed: int) -> None:
    folder = run(config(tmp_path, HONEST, seed=seed))
    curve = [row["eval/reward_mean"] for row in evaluated(folder)]
    assert curve[-1] > curve[0] + evaluated(folder)[0]["eval/reward_ci95"]  # it did learn
    assert guards(folder) == []
    assert all("ngram_jumps" not in row for row in evaluated(folder))


# the same command again


@pytest.mark.thorough
@pytest.mark.slow
def test_a_stopped_run_stays_stopped_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = settings(tmp_path, HACKABLE, monitor={"stop_on": ["ngram_jump"]})
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(own))  # JSON is YAML
    first = toy_runs.raft("run", "--quiet", file)
    folder = tmp_path / "run"
    stop = stopped(folder)
    assert first.returncode == 0
    line = f"stopped after iteration {stop['iteration']} by monitor.ngram_jump: {stop['message']}"
    assert [one for one in first.stderr.splitlines() if line in one]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json*")}
    again = toy_runs.raft("run", "--quiet", file)
    assert again.returncode == 0
    assert again.stderr.count("\n") == 1 and line in again.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.json*")} == before
    # another rule, and it goes on from there; what was evaluated is not evaluated again
    rows = evaluated(folder)
    on = toy_runs.raft("run", "--quiet", file, "monitor.stop_on=[]", "iterations=9")
    assert on.returncode == 0 and "stopped" not in on.stderr
    assert evaluated(folder)[: len(rows)] == rows and len(evaluated(folder)) == 10
    assert not (folder / "stopped.json").exists()
    assert not any(row["stops"] for row in guards(folder))
    # nothing else may change on the way
    other = toy_runs.raft("run", file, "sampling.k=4")
    assert other.returncode == 2 and "belongs to another config" in other.stderr


def test_the_text_of_perplexity_may_not_change(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text("good w1 w2\nw3 w4\n")
    folders = [{"reference_text": str(tmp_path / f"{name}.txt")} for name in ("one", "two")]
    run(config(tmp_path, HONEST, iterations=1, monitor=folders[0]))
    with pytest.raises(InputError, match=r"differs in monitor\.reference_text"):
        run(config(tmp_path, HONEST, iterations=2, monitor=folders[1]))
    run(config(tmp_path, HONEST, iterations=2, monitor={**folders[0], "kl": False}))


@pytest.mark.slow
def test_a_folder_from_before_the_monitor_goes_on(tmp_path: Path) -> None:
    folder = run(config(tmp_path, HONEST, iterations=1))
    stored = toy_runs.read_yaml(folder / "config.yaml")
    del stored["monitor"]
    (folder / "config.yaml").write_text(json.dumps(stored))
    run(config(tmp_path, HONEST, iterations=2))
    assert len(evaluated(folder)) == 3


# the best policy


def best_kept(folder: RunFolder) -> bool:
    rows = folder.evaluations()
    best = max(rows, key=lambda row: row["eval/gold_mean"]).iteration
    return best == 0 or (folder.checkpoint(best) / "toy_policy.json").exists()


@pytest.mark.slow
def test_gold_past_its_peak_stops_and_the_peak_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gold = toy_runs.reward_file(tmp_path, PEAKED, name="gold.py")
    original, seen = RunFolder.drop_old_checkpoints, []

    def watched(folder: RunFolder, *given: int) -> None:
        original(folder, *given)
        seen.append(best_kept(folder))

    monkeypatch.setattr(RunFolder, "drop_old_checkpoints", watched)
    monitor = {"stop_on": ["gold_patience"], "gold_patience": 2}
    proxy = "return [float(c.split().count('good')) for c in completions]"
    folder = run(config(tmp_path, proxy, gold=gold, monitor=monitor, keep_checkpoints=1))
    curve = [row["eval/gold_mean"] for row in evaluated(folder)]
    peak = int(np.argmax(curve))
    stop = stopped(folder)
    assert 0 < peak <= len(curve) - 3 and len(curve) < 13
    assert stop["best_iteration"] == peak and stop["guard"] == "gold_patience"
    assert stop["checkpoint"] == f"iterations/{peak:03d}/checkpoint"
    assert (folder / stop["checkpoint"] / "toy_policy.json").exists()
    assert all(seen) and len(seen) >= len(curve)
    kept = {path.parent.name for path in folder.glob("iterations/*/checkpoint")}
    assert kept == {f"{peak:03d}", f"{stop['iteration']:03d}"}


def test_the_starting_model_can_be_the_best(tmp_path: Path) -> None:
    gold = toy_runs.reward_file(
        tmp_path, "return [-float(c.split().count('good')) for c in completions]", name="gold.py"
    )
    monitor = {"stop_on": ["gold_patience"], "gold_patience": 1}
    folder = run(config(tmp_path, HACKABLE, gold=gold, monitor=monitor))
    assert stopped(folder)["best_iteration"] == 0
    assert stopped(folder)["checkpoint"] == str(tmp_path / "policy")


# what is measured


@pytest.mark.slow
def test_kl_is_that_of_the_policies_that_drew(tmp_path: Path) -> None:
    # every token of every held-out sample by hand, from the folders of the policies
    monitor = {"kl_budget": 2.0, "stop_on": ["kl_budget"]}
    sections = {"keep_checkpoints": 99, "eval": {"prompts": 16, "k": 4, "temperature": 0.8}}
    folder = run(config(tmp_path, HACKABLE, monitor=monitor, **sections))

    def log_p(model: Path) -> np.ndarray:
        scaled = read_toy(str(model))[1] / 0.8
        return scaled - np.log(np.exp(scaled).sum())

    start = log_p(tmp_path / "policy")
    assert evaluated(folder)[0]["eval/kl_k1"] == evaluated(folder)[0]["eval/kl_k3_ci95"] == 0
    for row in evaluated(folder)[1:]:
        home = folder / f"iterations/{row['iteration']:03d}"
        d = log_p(home / "checkpoint") - start
        stored = toy_runs.rows(home / "eval.jsonl")
        k1 = [[d[ids].sum() for ids in one["token_ids"]] for one in stored]
        k3 = [[(np.exp(-d[i]) - 1 + d[i]).sum() for i in one["token_ids"]] for one in stored]
        assert row["eval/kl_k1"] == pytest.approx(np.mean(k1))
        assert row["eval/kl_k3"] == pytest.approx(np.mean(k3))
        half = 2.1314 * np.std(np.mean(k1, axis=1), ddof=1) / 4  # t with 15 degrees of freedom
        assert row["eval/kl_k1_ci95"] == pytest.approx(half, rel=1e-4)
        assert [one["id"] for one in toy_runs.rows(home / "kl.jsonl")] == [
            one["id"] for one in stored
        ]
    curve = [row["eval/kl_k1"] for row in evaluated(folder)]
    assert curve[-1] > 2 >= max(curve[:-1]) and stopped(folder)["guard"] == "kl_budget"


def test_greedy_evaluation_has_no_kl_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LogProbWorker, "__init__", lambda *_, **__: pytest.fail("was started"))
    greedy = {"prompts": 8, "k": 1, "temperature": 0}
    with caplog.at_level("INFO", logger="raft"):
        folder = run(config(tmp_path, HONEST, iterations=2, eval=greedy))
    assert sum("no KL" in record.getMessage() for record in caplog.records) == 1
    assert not any("kl" in key for row in evaluated(folder) for key in row)


@pytest.mark.parametrize(("section", "said"), [({"top_p": 0.9}, 1), ({}, 0)])
def test_cut_distributions_are_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, section: dict[str, Any], said: int
) -> None:
    with caplog.at_level("INFO", logger="raft"):
        run(config(tmp_path, HONEST, iterations=1, sampling={"k": 4, **section}))
    found = [r for r in caplog.records if "top_p cuts what is sampled" in r.getMessage()]
    assert len(found) == said


def test_kl_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LogProbWorker, "__init__", lambda *_, **__: pytest.fail("was started"))
    folder = run(config(tmp_path, HONEST, iterations=1, monitor={"kl": False}))
    assert not any("kl" in key for row in evaluated(folder) for key in row)
    assert {"eval/msttr", "eval/duplicate_share"} <= evaluated(folder)[0].keys()


def test_perplexity_of_a_text(tmp_path: Path) -> None:
    # lines are documents; the first word of each is predicted by nothing
    (tmp_path / "reference.txt").write_text("w1 good\nw2\nw3 good w4\n")
    monitor = {"reference_text": str(tmp_path / "reference.txt")}
    sections = {"iterations": 2, "keep_checkpoints": 9}
    folder = run(config(tmp_path, HACKABLE, monitor=monitor, **sections))
    for row in evaluated(folder):
        at = row["iteration"]
        model = folder / f"iterations/{at:03d}/checkpoint" if at else tmp_path / "policy"
        logits = read_toy(str(model))[1]
        log_p = logits - np.log(np.exp(logits).sum())
        predicted = [MANY.index(word) for word in ("good", "good", "w4")]
        assert row["eval/perplexity"] == pytest.approx(np.exp(-log_p[predicted].mean()))


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "monitor.reference_text: "), ("w1\nw2\n", "has no document of two tokens")],
)
def test_a_reference_text_that_is_none(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "reference.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as caught:
        run(config(tmp_path, HONEST, monitor={"reference_text": str(path)}))
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert not list((tmp_path / "run").glob("iterations/*/*"))


@pytest.mark.slow
def test_evaluations_in_between_are_skipped(tmp_path: Path) -> None:
    evaluation = {"prompts": 16, "k": 4, "every": 3}
    folder = run(config(tmp_path, HACKABLE, iterations=7, eval=evaluation))
    assert [row["iteration"] for row in evaluated(folder)] == [0, 3, 6, 7]
    stored = json.loads((folder / "iterations/007/ngrams.json").read_text())
    assert stored["previous_iteration"] == 6
    assert {row["iteration"] for row in guards(folder)} <= {3, 6, 7}


# kills


def results(folder: Path) -> dict[str, Any]:
    files = [*folder.glob("*.json*"), *folder.glob("iterations/*/ngrams.json")]
    kept = {
        path.relative_to(folder): path.read_bytes()
        for path in files
        if path.name not in ("metrics.jsonl", "env.json")
    }
    return {"files": kept, "rows": toy_runs.results(folder), "metrics": toy_runs.lasting(folder)}


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("iterations", [2, 3])  # it stops at the second: its last one, or not
def test_a_kill_at_any_change_of_a_run_that_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, iterations: int
) -> None:
    # warnings, a stop, and a best policy that is not the last: the same files, however it got there
    monkeypatch.setattr("raft.runs.environment.describe_environment", dict)
    gold = toy_runs.reward_file(tmp_path, PEAKED, name="gold.py")
    own = config(
        tmp_path,
        HACKABLE,
        gold=gold,
        iterations=iterations,
        train={"learning_rate": 25.0},
        monitor={"stop_on": ["kl_budget"], "kl_budget": 4.0},
        prompts={"per_iteration": 6},
        eval={"prompts": 6, "k": 4},
        keep_checkpoints=1,
    )
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        left = folders_of_kills(patched, folder, tmp_path / "left")
        run(own)
    straight = results(folder)
    stop = json.loads(straight["files"][Path("stopped.json")])
    assert 0 < stop["best_iteration"] < stop["iteration"] == 2
    assert len(guards(folder)) > 1
    states = left()
    if iterations == 2:  # up to its last iteration, the states are those of the longer run
        states = [one for one in states if (one / "iterations/002").exists()]
    assert len(states) > 20
    for state in states:
        shutil.rmtree(folder)
        state.rename(folder)
        run(own)
        assert results(folder) == straight, state.name
        assert toy_runs.hidden(folder) == [], state.name


def test_a_finished_evaluation_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = config(tmp_path, HONEST, iterations=2)
    asked: list[int] = []
    original = LogProbWorker.measure

    def measure(worker: LogProbWorker, policy: str, samples: list[Row], texts: list[Row]) -> Any:
        asked.append(len(samples))
        return original(worker, policy, samples, texts)

    monkeypatch.setattr(LogProbWorker, "measure", measure)
    with monkeypatch.context() as patched:
        # after kl.jsonl of the last evaluation is there, before its metrics are
        def crash(folder: RunFolder, iteration: int, phase: str, values: Any) -> Any:
            if (iteration, phase) == (2, "eval"):
                raise Crash
            return add(folder, iteration, phase, values)

        add = RunFolder.add_metrics
        patched.setattr(RunFolder, "add_metrics", crash)
        with pytest.raises(Crash):
            run(own)
    assert asked == [64, 64]
    folder = run(own)
    assert asked == [64, 64]
    assert evaluated(folder)[-1]["eval/kl_k1"] > 0
    assert os.listdir(folder / "iterations/002").count("kl.jsonl") == 1
