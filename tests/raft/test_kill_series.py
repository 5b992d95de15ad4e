"""A hundred kills at moments when something changes, of runs whose reward raises now and then."""

from __future__ import annotations

import json
import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest
import toy_runs
from crashes import Crash, crashing_calls

from raft.config.run import RunConfig
from raft.loop import run
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


def config(root: Path, name: str) -> RunConfig:
    return toy_runs.config(
        root, run_dir=str(root / name), reward=toy_runs.reward_file(root, RAISING), iterations=2
    )


def attempt(found: RunConfig, moment: int, log: Path) -> int:
    """Run in a process of its own that is killed at a change; its status, as `waitpid` has it."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    with pytest.MonkeyPatch.context() as patched:
        crashing_calls(patched, moment, after=random.random() < 0.5)
        stored = RolloutStore.add_samples

        def noted(store: RolloutStore, group: Group) -> None:
            stored(store, group)
            with open(log, "a") as lines:
                lines.write(json.dumps([str(store.path), group.prompt.id]) + "\n")

        patched.setattr(RolloutStore, "add_samples", noted)
        try:
            run(found)
            os._exit(0)
        except Crash:
            os.kill(os.getpid(), signal.SIGKILL)
        except RewardError:
            os._exit(2)
        finally:
            os._exit(1)


@pytest.mark.slow
def test_a_hundred_kills_and_a_moody_reward_leave_the_files_of_an_undisturbed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config(tmp_path, "straight"))
    expected = toy_runs.results(tmp_path / "straight")
    monkeypatch.setenv("RAFT_TEST_CALLS", str(tmp_path / "calls"))
    monkeypatch.setattr(random, "random", (moments := random.Random(13)).random)
    ends: Counter[str] = Counter()
    for number in range(KILLS):
        if ends["killed"] >= KILLS:
            break
        found, log = config(tmp_path, f"run-{number}"), tmp_path / f"drawn-{number}"
        while not (tmp_path / f"run-{number}" / "curves.png").exists():
            status = attempt(found, moments.randrange(1, 25), log)
            assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) in (0, 2)
            raised = not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) == 2
            ends["killed" if os.WIFSIGNALED(status) else "raised" if raised else "done"] += 1
        assert toy_runs.results(tmp_path / f"run-{number}") == expected
        assert toy_runs.hidden(tmp_path / f"run-{number}") == []
        drawn = Counter(log.read_text().splitlines())
        assert set(drawn.values()) == {1}, "what was stored is never drawn again"
    print(dict(ends))
    assert ends["killed"] >= KILLS and ends["raised"] > KILLS / 10
