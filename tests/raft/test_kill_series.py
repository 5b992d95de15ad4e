"""Kills of runs whose reward raises now and then: a hundred of toy runs, each when something
changes, and as many of a run with vLLM as RAFT_TEST_KILLS says, each in the midst of some work."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import toy_runs
from crashes import Crash, crashing_calls

from raft.config.run import RunConfig
from raft.loop import run
from raft.runs.folder import UNFINISHED
from raft.workers.reward import RewardWorkers
from raft.workers.rollout import RolloutWorkers
from raft.workers.trainer import TrainerWorkers
from rewards.types import RewardError
from rollout.storage.rollout_store import RolloutStore
from rollout.types import Group

KILLS = 100
# raises in every third of its calls where it is told to, and in any process
RAISING = """\
if "RAFT_TEST_CALLS" in os.environ:
    with open(os.environ["RAFT_TEST_CALLS"], "a") as calls:
        calls.write("x")
    if os.path.getsize(os.environ["RAFT_TEST_CALLS"]) % 3 == 0:
        raise ValueError("this reward is moody")
return [float(c.count('good') - c.count('bad')) for c in completions]
"""
# calls of the driver during which the work is done, and how long into them the kill comes
WORK: dict[str, tuple[type, str, float]] = {
    "drawing": (RolloutStore, "add_samples", 0.005),
    "scoring": (RewardWorkers, "submit", 0.002),
    "training": (TrainerWorkers, "train", 0.2),
    "saving": (TrainerWorkers, "train", 0.0),
    "syncing": (RolloutWorkers, "sync", 0.005),
}


def config(root: Path, name: str) -> RunConfig:
    return toy_runs.config(
        root, run_dir=str(root / name), reward=toy_runs.reward_file(root, RAISING), iterations=2
    )


def attempt(found: RunConfig, log: Path, arm: Callable[[pytest.MonkeyPatch], object]) -> str:
    """Run in a process of its own that `arm` makes end; how it ended: killed, raised or done."""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            return "killed"
        return {0: "done", 2: "raised"}[os.WEXITSTATUS(status)]
    with pytest.MonkeyPatch.context() as patched:
        stored = RolloutStore.add_samples

        def noted(store: RolloutStore, group: Group) -> None:
            stored(store, group)
            with open(log, "a") as lines:
                lines.write(json.dumps([str(store.path), group.prompt.id]) + "\n")

        patched.setattr(RolloutStore, "add_samples", noted)
        arm(patched)
        try:
            run(found)
            os._exit(0)
        except Crash:
            os.kill(os.getpid(), signal.SIGKILL)
        except RewardError:
            os._exit(2)
        finally:
            os._exit(1)


def kill_while(patched: pytest.MonkeyPatch, work: str, folder: Path) -> None:
    """Kill this process by SIGKILL in the midst of the next such work."""
    holder, name, delay = WORK[work]
    original = getattr(holder, name)

    def strike() -> None:
        while work == "saving" and not any(folder.glob(f"iterations/*/{UNFINISHED}*")):
            time.sleep(0.001)
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGKILL)

    def struck(*arguments: Any, **named: Any) -> Any:
        threading.Thread(target=strike, daemon=True).start()
        return original(*arguments, **named)

    patched.setattr(holder, name, struck)


def check_same(folder: Path, expected: dict[str, bytes], log: Path) -> None:
    assert toy_runs.results(folder) == expected
    assert toy_runs.hidden(folder) == []
    drawn = Counter(log.read_text().splitlines())
    assert set(drawn.values()) == {1}, "what was stored is never drawn again"


@pytest.mark.thorough
@pytest.mark.slow
def test_a_hundred_kills_and_a_moody_reward_leave_the_files_of_an_undisturbed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config(tmp_path, "straight"))
    expected = toy_runs.results(tmp_path / "straight")
    monkeypatch.setenv("RAFT_TEST_CALLS", str(tmp_path / "calls"))
    moments = random.Random(13)
    ends: Counter[str] = Counter()
    for number in range(KILLS):
        if ends["killed"] >= KILLS:
            break
        found, log = config(tmp_path, f"run-{number}"), tmp_path / f"drawn-{number}"
        while not (tmp_path / f"run-{number}" / "curves.png").exists():
            at, after = moments.randrange(1, 25), moments.random() < 0.5
            ends[attempt(found, log, lambda p, a=at, b=after: crashing_calls(p, a, after=b))] += 1
        check_same(tmp_path / f"run-{number}", expected, log)
    print(dict(ends))
    assert ends["killed"] >= KILLS and ends["raised"] > KILLS / 10


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(7200)
@pytest.mark.skipif(
    "RAFT_TEST_KILLS" not in os.environ, reason="set RAFT_TEST_KILLS=10: 10 starts of vLLM and more"
)
def test_kills_in_the_midst_of_work_leave_the_files_of_an_undisturbed_run(
    raft_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(name: str) -> RunConfig:
        return toy_runs.config(
            tmp_path,
            run_dir=str(tmp_path / name),
            policy={"model": str(raft_data / "models/stories260k"), "engine": "vllm"},
            reward=toy_runs.reward_file(tmp_path, RAISING.replace("'good'", "'e'")),
            train={"learning_rate": 1e-3, "batch_size": 8},
            iterations=2,
        )

    log, folder = tmp_path / "drawn", tmp_path / "killed"
    assert attempt(found("straight"), tmp_path / "straight-drawn", lambda _: None) == "done"
    monkeypatch.setenv("RAFT_TEST_CALLS", str(tmp_path / "calls"))
    left, ends = list(islice(cycle(WORK), int(os.environ["RAFT_TEST_KILLS"]))), Counter[str]()
    while not (folder / "curves.png").exists():
        work = left[0] if left else None
        end = attempt(
            found("killed"), log, lambda p, w=work: kill_while(p, w, folder) if w else None
        )
        ends[f"killed {work}" if end == "killed" else end] += 1
        if end == "killed":
            left.pop(0)
        files = len(toy_runs.results(folder))
        print(end, work, f"{files} files, {len(log.read_text().splitlines())} groups", flush=True)
    assert not left
    check_same(folder, toy_runs.results(tmp_path / "straight"), log)
    print(dict(ends))
