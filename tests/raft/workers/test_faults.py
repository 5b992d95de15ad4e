"""Real worker processes that die in the middle of a run: no row changes, and nothing hangs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import toy_faults
import toy_runs

import raft.assemble
import raft.monitor.kl
import raft.workers.reward
import raft.workers.rollout
from raft.loop import run
from rewards.types import RewardError
from rollout.types import InputError, WorkerDiedError

pytestmark = [pytest.mark.ray, pytest.mark.slow]

WORKERS = {"address": "local", "rollout_workers": 2, "reward_workers": 2, "max_respawns": 2}


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of orders to die, and workers that obey them."""
    folder = tmp_path / "orders"
    folder.mkdir()
    monkeypatch.setenv("RAFT_TEST_FAULTS", str(folder))
    monkeypatch.setattr(raft.workers.rollout, "RolloutWorker", toy_faults.DyingRolloutWorker)
    monkeypatch.setattr(raft.workers.reward, "RewardWorker", toy_faults.DyingRewardWorker)
    monkeypatch.setattr(raft.monitor.kl, "LogProbWorker", toy_faults.DyingLogProbWorker)
    monkeypatch.setattr(raft.assemble, "build_trainer", toy_faults.build_trainer)
    return folder


def settings(root: Path, name: str, **sections: Any) -> Any:
    return toy_runs.config(root, run_dir=str(root / name), iterations=2, **sections)


@pytest.mark.thorough
def test_the_cluster_changes_no_row_and_neither_do_deaths(tmp_path: Path, orders: Path) -> None:
    # one process without deaths against five workers and a trainer of which each kind dies twice
    # or more, in mid-generation, in a sync, in scoring, in training and while KL is measured
    straight = run(settings(tmp_path, "straight"))
    deaths = {"generate": 2, "load_weights": 2, "score": 2, "train": 2, "measure": 2}
    toy_faults.order(orders, **deaths)
    folder = run(settings(tmp_path, "killed", cluster=WORKERS))
    assert {name: (orders / name).read_text() for name in deaths} == dict.fromkeys(deaths, "0")
    assert toy_runs.results(folder) == toy_runs.results(straight)
    assert toy_runs.lasting(folder) == toy_runs.lasting(straight)
    assert toy_runs.hidden(folder) == []
    assert not list(folder.glob("iterations/*/checkpoint/half"))


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["generate", "score", "train", "measure"])
def test_too_many_deaths_end_the_run_and_lose_nothing(
    tmp_path: Path, orders: Path, kind: str
) -> None:
    straight = run(settings(tmp_path, "straight"))
    toy_faults.order(orders, **{kind: 3})
    alone = WORKERS | {"rollout_workers": 1, "reward_workers": 1}
    with pytest.raises(WorkerDiedError, match=r"died 3 times \(cluster.max_respawns is 2\)"):
        run(settings(tmp_path, "killed", cluster=alone))
    drawn = [
        row["id"]
        for file in (tmp_path / "killed").glob("iterations/*/.*.samples")
        for row in toy_runs.rows(file)
    ]
    assert len(drawn) == len(set(drawn)) and (drawn or kind in ("train", "measure"))
    folder = run(settings(tmp_path, "killed"))
    assert toy_runs.results(folder) == toy_runs.results(straight)
    assert toy_runs.lasting(folder) == toy_runs.lasting(straight)


@pytest.mark.thorough
def test_errors_of_a_worker_arrive_as_what_they_are(tmp_path: Path) -> None:
    reward = toy_runs.reward_file(tmp_path, "raise ConnectionError('no service')")
    with pytest.raises(RewardError, match="raised ConnectionError: no service") as caught:
        run(settings(tmp_path, "run", reward=reward, cluster=WORKERS))
    assert str(caught.value).count("\n") == 0


@pytest.mark.thorough
def test_a_worker_that_stops_without_dying_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def reward(root: Path, name: str, stops: bool) -> Any:
        told = root / f"stopped-{name}"
        body = "return [float(len(c)) for c in completions]"
        if stops:
            once = f"if not Path({str(told)!r}).exists():\n    Path({str(told)!r}).touch()\n"
            body = f"{once}    os.kill(os.getpid(), 19)\n{body}"
        return toy_runs.reward_file(root, body, f"{name}.py")

    cluster = {"address": "local", "stall_timeout": 15}
    folder = run(settings(tmp_path, "stopped", reward=reward(tmp_path, "a", True), cluster=cluster))
    straight = run(settings(tmp_path, "straight", reward=reward(tmp_path, "b", False)))
    assert (tmp_path / "stopped-a").exists()
    assert any("silent" in line and "a.py" in line for line in caplog.messages)
    assert toy_runs.results(folder) == toy_runs.results(straight)


def test_more_gpus_than_there_are(tmp_path: Path) -> None:
    config = toy_runs.config(tmp_path, cluster={"address": "local", "gpus": 4})
    with pytest.raises(InputError, match=r"cluster\.gpus: is 4"):
        run(config)
