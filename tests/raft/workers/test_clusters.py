"""Clusters of several nodes with GPUs that are made up, all on this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import toy_runs
from cluster_parts import Part

import raft.workers.ray_cluster as clusters
from raft.loop import run
from raft.workers.executors import Resources, Slot
from raft.workers.placement import place
from raft.workers.ray_executor import RayExecutor
from rollout.types import InputError, WorkerDiedError

pytestmark = [pytest.mark.ray, pytest.mark.slow]

Started = Callable[..., Any]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Without nodes at first."""
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(clusters, "_SETTLE_SECONDS", 1)
    monkeypatch.setattr(clusters, "_PLACEMENT_SECONDS", 3)
    made = Cluster()
    yield made
    ray.shutdown()
    made.shutdown()


def add(cluster: Any, gpus: int, cores: int = 4) -> Any:
    size = 80 * 2**20
    return cluster.add_node(num_cpus=cores, num_gpus=gpus, object_store_memory=size)


@pytest.mark.thorough
def test_workers_find_their_nodes_beside_those_of_others(
    cluster: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for _ in range(2):
        add(cluster, gpus=4, cores=8)
    # only now: nodes of other machines were started without them
    for name in ("HF_TOKEN", "NCCL_DEBUG", "VLLM_USE_IT", "RAFT_TEST_X", "CUDA_HOME", "MY_TOKEN"):
        monkeypatch.setenv(name, f"of {name}")
    monkeypatch.setenv("UNRELATED_SETTING", "stays here")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    executor = RayExecutor(cluster.address, forward=["MY_TOKEN"])
    executor.check_nodes(tmp_path)
    assert executor.gpus() == 8
    placement = place(
        gpus=8, cores=1, rollout_workers=1, reward_workers=1, trainer_workers=3, tensor_parallel=4
    )
    executor.reserve(placement.slots)
    everyone = [*placement.rollout, *placement.reward, *placement.trainer]
    asked = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HF_TOKEN", "MY_TOKEN", "CUDA_HOME")
    asked += ("NCCL_DEBUG", "VLLM_USE_IT", "RAFT_TEST_X", "UNRELATED_SETTING")
    workers = [executor.spawn(Part, own) for own in everyone]
    found = [worker.call(Part.environment, *asked).result() for worker in workers]
    # whole engines on a node, and as many threads as that node has for each
    assert [(len(str(one[0]).split(",")), one[1]) for one in found] == [(4, "8")] + [(1, "2")] * 4
    assert [one[2:] for one in found] == [[f"of {name}" for name in asked[2:-1]] + [None]] * 5
    # all of it is taken now
    assert executor.gpus() == 0
    with pytest.raises(InputError, match=r"cluster: .* need 1 GPUs, and free .* \(0 of 4\), "):
        executor.reserve([Slot(1)])
    # what is not shared is found before anything starts
    with pytest.raises(InputError, match=r"run_dir: the node .* does not see /no/such"):
        clusters._ask_nodes(Path("/no/such/token"), {})
    # the cause of a death is told, and where its log is
    with pytest.raises(WorkerDiedError, match=r"exit type.* process \d+ on .*; logs in /") as death:
        workers[0].call(Part.die).result()
    assert "\n" not in str(death.value)


@pytest.mark.thorough
def test_a_lost_node_ends_the_run_and_the_same_command_goes_on(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(cluster, gpus=2)
    doomed = add(cluster, gpus=2)
    settings = {
        "run_dir": str(tmp_path / "run"),
        "iterations": 60,
        "cluster": {"address": cluster.address, "rollout_workers": 3, "placement": "separate"},
    }
    config = toy_runs.config(tmp_path, **settings)

    def lose() -> None:
        while not (tmp_path / "run/iterations/002").exists():
            time.sleep(0.1)
        cluster.remove_node(doomed, allow_graceful=False)

    threading.Thread(target=lose, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(InputError, match="cluster: a node of the run is lost") as lost:
        run(config)
    assert "the same command" in str(lost.value) and time.monotonic() - began < 120
    ray.shutdown()
    # two engines and a trainer no longer fit, as it says, until fewer are asked for
    with pytest.raises(InputError, match=r"cluster.placement: separate needs 4 GPUs .* 2"):
        run(config)
    fewer = {**settings["cluster"], "rollout_workers": 1}
    done = run(toy_runs.config(tmp_path, **{**settings, "iterations": 4, "cluster": fewer}))
    assert len(toy_runs.rows(done / "metrics.jsonl")) >= 8


@pytest.mark.thorough
def test_a_worker_without_a_gpu_needs_no_reservation(cluster: Any) -> None:
    add(cluster, gpus=0)
    executor = RayExecutor(cluster.address)
    executor.reserve([])
    assert executor.gpus() == 0
    assert executor.spawn(Part, Resources(threads=3)).call(
        Part.environment, "OMP_NUM_THREADS"
    ).result() == ["3"]
