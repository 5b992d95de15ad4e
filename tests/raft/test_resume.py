"""A run that was stopped anywhere ends as if it had never been stopped."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_runs
import yaml
from crashes import Crash, crashing_calls
from toy_faults import RememberingTrainer
from wording import says

import raft.loop
import raft.updates.toy
from raft.cli.main import main
from raft.config.run import RunConfig
from raft.loop import run
from raft.updates.optimizer import is_whole
from raft.updates.toy import ToyTrainer
from rewards.types import RewardError
from rollout.storage.append_log import AppendLog
from rollout.types import InputError

# a reward that takes its time, and by which every prompt's scores differ
SLOW = "time.sleep(0.1)\nreturn [float(c.count('good') - c.count('bad')) for c in completions]"


OF_RUN = (
    "equal",
    "every",
    "control",
    "overlap",
)  # of the cases below, what is no setting of an update


def small(root: Path, name: str = "run", **sections: Any) -> RunConfig:
    own: dict[str, Any] = {"prompts": {"per_iteration": 6}, "eval": {"prompts": 4, "k": 1}}
    found = {"run_dir": str(root / name), "iterations": 2, "keep_checkpoints": 1, **own}
    return toy_runs.config(root, **{**found, **sections})


def slow_file(root: Path, name: str) -> Path:
    """Three or four batches of scoring per iteration, a tenth of a second each."""
    toy_runs.settings(root)
    toy_runs.write_prompts(root / "prompts.jsonl", 240)
    file = toy_runs.config_file(
        root,
        run_dir=str(root / name),
        reward=toy_runs.reward_file(root, SLOW),
        prompts={"per_iteration": 100},
        eval={"prompts": 40, "k": 2},
        iterations=4,
    )
    return file.rename(root / f"{name}.yaml")


def assert_same(found: Path, expected: Path) -> None:
    assert toy_runs.results(found) == toy_runs.results(expected)
    assert toy_runs.lasting(found) == toy_runs.lasting(expected)
    assert toy_runs.hidden(found) == []
    if (expected / "control").exists():
        assert_same(found / "control", expected / "control")


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.01)


def relatives(mark: str) -> list[int]:
    """Every living process that inherited this mark in its environment."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and mark.encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.thorough
@pytest.mark.slow
def test_killed_ten_times_and_started_again(tmp_path: Path) -> None:
    # SIGKILL at random moments of a run in a process of its own; seeded, but the load of the
    # machine moves the moments, so every run of this test tries others
    straight, killed = (slow_file(tmp_path, name) for name in ("straight", "killed"))
    # so long that it cannot finish between the kills
    longer = "iterations=16"
    assert toy_runs.raft("run", "--quiet", straight, longer).returncode == 0
    moments = random.Random(20)
    kills = 0
    for _ in range(11):
        process = subprocess.Popen(toy_runs.command("run", "--quiet", killed, longer))
        try:
            code = process.wait(moments.uniform(0.3, 1.2) if kills < 10 else 120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            continue
        assert code == 0
    assert kills == 10
    assert_same(tmp_path / "killed", tmp_path / "straight")
    for file in (tmp_path / "killed").glob("iterations/*/*.jsonl"):
        ids = [row["id"] for row in toy_runs.rows(file)]
        assert len(ids) == len(set(ids))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "update", "step"),
    [
        # a crash before a change is one after that before it, so every second of each is all
        (False, {}, 2),
        (True, {}, 2),
        (True, {"update": "raft_plus_plus", "kl": 0.1, "epochs": 3}, 8),
        (True, {"update": "dpo", "epochs": 2}, 7),
        (True, {"update": "raft_plus_plus", "epochs": 2, "every": 3}, 11),
        (True, {"update": "raft_plus_plus", "epochs": 2, "overlap": 1, "every": 2}, 11),
        *(
            pytest.param(*one, marks=pytest.mark.thorough)
            for one in (
                (False, {"update": "weighted", "start_from": "start"}, 7),
                (False, {"update": "reinforce", "mix": {"path": "prompts.jsonl", "share": 0.3}}, 6),
                (False, {"update": "reinforce", "equal": True}, 9),  # scores of iteration 1
                (False, {"update": "dpo", "control": {"every": 2}}, 17),
                (True, {"update": "raft_plus_plus", "epochs": 2, "overlap": 1}, 9),
                (False, {"update": "reinforce", "overlap": 1, "equal": True}, 13),
                (False, {"update": "raft_plus_plus", "epochs": 2, "overlap": 1, "every": 3}, 11),
            )
        ),
    ],
)
def test_a_crash_at_every_single_change_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool, update: dict[str, Any], step: int
) -> None:
    # every write, rename and deletion of a whole run is crashed at once, and the run continued
    monkeypatch.setattr("raft.runs.environment.describe_environment", dict)
    monkeypatch.chdir(tmp_path)  # where the file that is mixed in lies
    train = {key: value for key, value in update.items() if key not in OF_RUN}
    own: dict[str, Any] = {}
    own |= {key: update[key] for key in ("control", "overlap") if key in update}
    if "overlap" in update:
        own["iterations"] = 3
    if "every" in update:
        own |= {"checkpoint": {"every": update["every"]}, "iterations": 4, "keep_checkpoints": 1}

    def settings_of(name: str) -> RunConfig:
        if "equal" in update:
            own["reward"] = toy_runs.equal_until(tmp_path, 2, name)
        return small(tmp_path, name, train=train, **own)

    straight = run(settings_of("straight"))
    with monkeypatch.context() as patched:
        calls = crashing_calls(patched, at=-1, after=after)
        run(settings_of("counted"))
        total = calls()
    assert total > 55
    for at in range(1, total + 1, step):
        settings = settings_of(f"crashed-{at}")
        with monkeypatch.context() as patched:
            crashing_calls(patched, at=at, after=after)
            with pytest.raises(Crash):
                run(settings)
        assert_same(run(settings), straight)


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    ("update", "step"),
    [
        ({"learning_rate": 0.3}, 5),
        ({"update": "raft_plus_plus", "learning_rate": 0.3, "epochs": 2, "overlap": 1}, 6),
        ({"learning_rate": 0.3, "every": 2}, 9),
    ],
)
def test_a_crash_before_the_optimizer_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: dict[str, Any], step: int
) -> None:
    # which is as late as can be: before the next update
    monkeypatch.setattr("raft.runs.environment.describe_environment", dict)
    monkeypatch.setattr(raft.updates.toy, "ToyTrainer", RememberingTrainer)
    own: dict[str, Any] = {"iterations": 3, "overlap": update.get("overlap", 0)}
    own["train"] = {key: value for key, value in update.items() if key not in OF_RUN}
    own["checkpoint"] = {"every": update.get("every", 1)}
    straight = run(small(tmp_path, "straight", **own))
    assert is_whole(straight / "iterations/003/checkpoint")
    with monkeypatch.context() as patched:
        calls = crashing_calls(patched, at=-1, after=False)
        run(small(tmp_path, "counted", **own))
        total = calls()
    again = 0
    for at in range(1, total + 1, step):
        settings = small(tmp_path, f"crashed-{at}", **own)
        with monkeypatch.context() as patched:
            crashing_calls(patched, at=at, after=False)
            with pytest.raises(Crash):
                run(settings)
        whole = [is_whole(one) for one in Path(settings.run_dir).glob("iterations/*/checkpoint")]
        again += not all(whole)
        assert_same(run(settings), straight)
    assert again > total // step // 4, "many of them fall between a policy and its optimizer"


@pytest.mark.slow
def test_a_full_disk_under_the_optimizer_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(raft.updates.toy, "ToyTrainer", RememberingTrainer)
    file = toy_runs.config_file(tmp_path, iterations=2)
    straight = run(toy_runs.config(tmp_path, iterations=2, run_dir=str(tmp_path / "straight")))

    def full(self: RememberingTrainer, checkpoint: str) -> None:
        if self._asked:
            where = str(Path(checkpoint) / "optimizer.pt")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), where)
        self._asked = True

    with monkeypatch.context() as patched:
        patched.setattr(RememberingTrainer, "store", full)
        assert main(["run", str(file), "--quiet"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and says(said[0], "001/checkpoint/optimizer.pt no space make room")
    assert main(["run", str(file), "--quiet"]) == 0
    assert_same(tmp_path / "run", straight)


def test_a_run_goes_on_with_keys_that_its_config_did_not_know(tmp_path: Path) -> None:
    config = run(small(tmp_path)) / "config.yaml"
    stored = toy_runs.read_yaml(config)
    for key in ("update", "start_from", "mix", "kl"):
        del stored["train"][key]
    config.write_text(yaml.safe_dump(stored))
    longer = small(tmp_path, iterations=3)
    assert len(toy_runs.metrics(run(longer))) > 5
    config.write_text(yaml.safe_dump(stored))
    with pytest.raises(InputError, match=r"differs in .*train\.kl"):
        run(small(tmp_path, iterations=4, train={"kl": 0.1}))


def _interrupted_scoring(root: Path, name: str) -> tuple[RunConfig, Path]:
    """A run whose reward failed in iteration 1: all samples drawn, none scored."""
    reward = toy_runs.reward_file(
        root,
        f"if (Path({str(root)!r}) / 'fail').exists() and Path({str(root)!r}, {name!r}, "
        "'iterations/001').exists():\n    raise OSError('no service')\n"
        "return [float(c.count('good')) for c in completions]",
        name=f"reward_{name}.py",
    )
    settings = small(root, name, reward=reward)
    (root / "fail").touch()
    with pytest.raises(RewardError):
        run(settings)
    (root / "fail").unlink()
    return settings, root / name / "iterations/001"


@pytest.mark.slow
def test_a_torn_last_row_is_drawn_again(tmp_path: Path) -> None:
    settings, _ = _interrupted_scoring(tmp_path, "straight")
    straight = run(settings)
    settings, home = _interrupted_scoring(tmp_path, "torn")
    log = home / ".rollouts.samples"
    whole = log.read_bytes()
    assert whole.count(b"\n") == 6
    for cut in (1, 20, len(whole.splitlines()[-1])):
        log.write_bytes(whole[:-cut])
        with pytest.MonkeyPatch.context() as patched, pytest.raises(Crash):
            crashing_calls(patched, at=1, after=False)
            run(settings)
    log.write_bytes(whole[:-7])
    assert_same(run(settings), straight)


def test_samples_drawn_before_a_stop_are_used(tmp_path: Path) -> None:
    # stored samples are marked; the marks must come through to the end
    settings, home = _interrupted_scoring(tmp_path, "run")
    log = home / ".rollouts.samples"
    log.write_text(log.read_text().replace('"responses": ["', '"responses": ["MARK'))
    folder = run(settings)
    rows = toy_runs.rows(home / "rollouts.jsonl")
    assert all(row["responses"][0].startswith("MARK") for row in rows)
    assert toy_runs.metrics(folder)[1]["rollout/reused"] == 6


def test_damage_in_the_middle_is_said_not_dropped(tmp_path: Path) -> None:
    settings, home = _interrupted_scoring(tmp_path, "run")
    log = home / ".rollouts.samples"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([lines[0], lines[1][:40] + b"\n", *lines[2:]]))
    with pytest.raises(InputError, match=r"\.rollouts\.samples:2: damaged row"):
        run(settings)
    assert log.read_bytes().count(b"\n") == 6


@pytest.mark.slow
def test_what_a_kill_leaves_behind_is_cleared_away(tmp_path: Path) -> None:
    # unfinished files of every kind, as a kill at the wrong moment leaves them
    settings, _ = _interrupted_scoring(tmp_path, "straight")
    straight = run(settings)
    settings, home = _interrupted_scoring(tmp_path, "run")
    (home / ".rollouts.jsonl.partial").write_text('{"id": "half')
    (home / ".selected.jsonl.partial").write_text('{"id": "half')
    for name in (".checkpoint-00000000", ".gone-00000000"):
        (home / name).mkdir()
        (home / name / "model.safetensors").write_text("half")
    assert_same(run(settings), straight)


def test_a_kill_between_rename_and_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the joined file is there and its logs still are: the file counts
    straight = run(small(tmp_path, "straight"))
    settings = small(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(AppendLog, "delete", lambda log: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            run(settings)
    home = tmp_path / "run/iterations/000"
    assert (home / "eval.jsonl").exists() and (home / ".eval.samples").exists()
    assert_same(run(settings), straight)


def test_a_kill_between_checkpoint_and_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the update is not done twice, and what an earlier attempt at it left is cleared away
    straight = run(small(tmp_path, "straight"))
    settings = small(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(raft.loop, "sync", lambda *_, **__: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            run(settings)
    (tmp_path / "run/iterations/001/.checkpoint-00000000").mkdir()
    updates = []
    original = ToyTrainer.train
    monkeypatch.setattr(
        ToyTrainer, "train", lambda t, rows, *rest: (updates.append(rows), original(t, rows, *rest))
    )
    assert_same(run(settings), straight)
    assert len(updates) == 1


def test_a_folder_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    folder = run(small(tmp_path, iterations=1))
    file = folder / "config.yaml"
    stored = yaml.safe_load(file.read_text())
    # every reward listed the settings of all kinds
    others = {"model": None, "engine": "auto", "members": [], "tie": None, "url": None}
    stored["reward"] = {**stored["reward"], **others}
    del stored["reward"]["name"]
    file.write_text(yaml.safe_dump(stored, sort_keys=False))
    other = {"kind": "function", "function": "length", "arguments": None}
    with pytest.raises(InputError, match="differs in reward"):
        run(small(tmp_path, reward=other))
    assert toy_runs.results(run(small(tmp_path))) == toy_runs.results(
        run(small(tmp_path, "straight"))
    )


@pytest.mark.slow
def test_one_process_per_folder(tmp_path: Path) -> None:
    # the second is told who holds it; the first ends undisturbed
    file = slow_file(tmp_path, "run")
    first = subprocess.Popen(toy_runs.command("run", "--quiet", file))
    wait_for((tmp_path / "run/iterations/000").exists)
    second = toy_runs.raft("run", file)
    assert first.poll() is None
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    assert second.stderr.startswith("raft: run_dir=") and f"process {first.pid}" in second.stderr
    assert first.wait(60) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "address", ["inline", pytest.param("local", marks=[pytest.mark.ray, pytest.mark.thorough])]
)
def test_interrupting_says_one_line_and_loses_nothing(tmp_path: Path, address: str) -> None:
    straight = run(
        toy_runs.make_config(toy_runs.read_yaml(slow_file(tmp_path, "straight")), "straight")
    )
    file = slow_file(tmp_path, "run")
    mark = f"raft-test-{uuid.uuid4().hex}"
    process = subprocess.Popen(
        toy_runs.command("run", "--quiet", file, f"cluster.address={address}"),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAFT_TEST_MARK": mark},
        # a shell starts background jobs with interrupts ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for((tmp_path / "run/iterations/001/.rollouts.samples").exists, 180)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert says(stderr, "raft: interrupted") and stderr.count("\n") == 1
    wait_for(lambda: not relatives(mark))
    assert toy_runs.raft("run", "--quiet", file).returncode == 0
    assert_same(tmp_path / "run", straight)


@pytest.mark.ray
@pytest.mark.slow
def test_a_kill_leaves_no_orphans(tmp_path: Path) -> None:
    # SIGKILL gives the run no chance to end its workers: they must notice
    file = slow_file(tmp_path, "run")
    mark = f"raft-test-{uuid.uuid4().hex}"
    process = subprocess.Popen(
        toy_runs.command("run", "--quiet", file, "cluster.address=local"),
        env={**os.environ, "RAFT_TEST_MARK": mark},
    )
    wait_for((tmp_path / "run/iterations/001/.rollouts.samples").exists, 180)
    assert len(relatives(mark)) > 3
    process.kill()
    process.wait()
    # Ray's two idle agents give up on a dead cluster after a minute; all else is gone in seconds
    wait_for(lambda: not relatives(mark), 240)
    assert toy_runs.raft("run", "--quiet", file).returncode == 0


def test_a_reward_that_changed_under_its_name_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # by content: another function in the file, or another lexicon; as it was it goes on
    caplog.set_level("INFO", logger="raft")
    lexicon = tmp_path / "lexicon.json"
    lexicon.write_text('{"positive": ["good"], "negative": []}')
    gold = {"kind": "function", "function": "word_list", "arguments": {"lexicon": str(lexicon)}}
    reward = toy_runs.reward_file(tmp_path, "return [float(len(c)) for c in completions]")
    run(small(tmp_path, iterations=1, reward=reward, gold=gold))
    file = tmp_path / "reward_function.py"
    before = file.read_text(), lexicon.read_text()
    for changed, text in (
        (file, before[0].replace("len(c)", "-len(c)")),
        (lexicon, '{"positive": ["bad"], "negative": []}'),
    ):
        changed.write_text(text)
        with pytest.raises(InputError, match=r"iterations/001/checkpoint") as caught:
            run(small(tmp_path, iterations=2, reward=reward, gold=gold))
        assert str(changed) in str(caught.value)
        file.write_text(before[0])
        lexicon.write_text(before[1])
    run(small(tmp_path, iterations=2, reward=reward, gold=gold))
    assert any("going on after iteration 1 of 2" in line for line in caplog.messages)


def test_a_checkpoint_that_was_deleted_is_trained_again(tmp_path: Path) -> None:
    run(toy_runs.config(tmp_path, iterations=2))
    policy = tmp_path / "run/iterations/002/checkpoint"
    held, expected = (policy / "toy_policy.json").read_text(), toy_runs.results(tmp_path / "run")
    shutil.rmtree(policy)
    run(toy_runs.config(tmp_path, iterations=3, keep_checkpoints=2))
    assert (policy / "toy_policy.json").read_text() == held
    assert expected.items() <= toy_runs.results(tmp_path / "run").items()
    rows = [(row["iteration"], row["phase"]) for row in toy_runs.metrics(tmp_path / "run")]
    assert len(rows) == len(set(rows))


def test_a_failure_before_the_first_sample_does_not_block_the_folder(tmp_path: Path) -> None:
    reward = toy_runs.reward_file(tmp_path, "return [float(len(c)) for c in completions]")
    with pytest.raises(InputError):
        run(small(tmp_path, reward=reward, sampling={"max_new_tokens": 10**6}))
    toy_runs.reward_file(tmp_path, "return [1.0 for c in completions]")
    run(small(tmp_path, reward=reward))


def test_a_reward_that_tells_nothing_apart_gets_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    constant = toy_runs.reward_file(tmp_path, "return [1.0 for c in completions]")
    run(small(tmp_path, reward=constant, iterations=1))
    assert any("same reward" in line for line in caplog.messages)
    caplog.clear()
    run(small(tmp_path, run_dir=str(tmp_path / "one"), sampling={"k": 1}, iterations=1))
    assert any("sampling.k is 1" in line for line in caplog.messages)
