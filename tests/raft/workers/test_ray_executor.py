from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cluster_parts
import pytest
from cluster_parts import Part, TellingRewardWorker

from raft.workers import ray_start
from raft.workers.executors import Resources
from raft.workers.ray_executor import RayExecutor
from rewards.build import build_reward
from rollout.types import InputError, WorkerDiedError

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def executor() -> Iterator[RayExecutor]:
    made = RayExecutor()
    yield made
    made.close()


def take_all(stream: Any) -> list[int]:
    taken = []
    while (item := stream.take()) is not None:
        taken.append(item)
    return taken


def test_every_worker_has_its_own_threads(
    executor: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    names = ("OMP_NUM_THREADS", "GOMP_SPINCOUNT", "SOME_SETTING")
    for threads in (1, 2):
        own = Resources(threads=threads, environment=(("SOME_SETTING", f"value {threads}"),))
        worker = executor.spawn(Part, own)
        # threads that spin long while they wait would starve the workers beside them
        found = worker.call(Part.environment, *names).result()
        assert found == [str(threads), "1000", f"value {threads}"]


def test_errors_arrive_as_what_they_are(executor: RayExecutor) -> None:
    worker = executor.spawn(Part, Resources())
    with pytest.raises(KeyError, match="inside"):
        worker.call(Part.fail).result()
    assert take_all(worker.stream(Part.count, 3)) == [0, 1, 2]
    refused = executor.spawn(partial(Part, refuse=True), Resources())
    for ask in (
        lambda: refused.call(Part.pid).result(),
        lambda: refused.stream(Part.count, 3).take(),
    ):
        with pytest.raises(InputError, match="not this one"):
            ask()


def test_death_is_told_and_nothing_comes_back_to_life(executor: RayExecutor) -> None:
    worker = executor.spawn(Part, Resources())
    stream = worker.stream(Part.count, 5, 2)
    assert [stream.take(), stream.take()] == [0, 1]
    with pytest.raises(WorkerDiedError, match="a worker process died"):
        stream.take()
    with pytest.raises(WorkerDiedError):  # an actor that Ray restarts would hold its first weights
        worker.call(Part.pid).result()


def test_first_ready_is_the_first(executor: RayExecutor) -> None:
    quick = executor.spawn(Part, Resources())
    late = executor.spawn(Part, Resources())
    late.call(Part.pid).result()
    waiting = [late.stream(Part.count, 1, 0), quick.stream(Part.count, 1)]
    assert executor.first_ready(waiting) is waiting[1]
    assert executor.first_ready(waiting[:1], timeout=0) is None


def test_a_word_counting_reward_loads_no_torch(executor: RayExecutor) -> None:
    # seconds of imports in a worker that only counts words
    reward = partial(build_reward, kind="function", function="length", non_finite="raise")
    worker = executor.spawn(partial(TellingRewardWorker, {"reward": reward}), Resources())
    assert worker.call(TellingRewardWorker.loaded).result() == []


def test_workers_end_with_a_driver_that_is_killed() -> None:
    script = (
        "import time\n"
        "from cluster_parts import Part\n"
        "from raft.workers.executors import Resources\n"
        "from raft.workers.ray_executor import RayExecutor\n"
        "worker = RayExecutor().spawn(Part, Resources())\n"
        "print(worker.call(Part.pid).result(), flush=True)\n"
        "time.sleep(60)\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(cluster_parts.__file__).parent)},
    )
    assert driver.stdout is not None
    worker = int(driver.stdout.readline())
    driver.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not is_alive(worker)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:6379", "auto"])
def test_where_no_cluster_answers_it_is_said_at_once(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if address == "auto":  # as the file that a cluster which is gone has left says it
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    began = time.monotonic()
    with pytest.raises(InputError, match=r"cluster\.address: no Ray cluster answers"):
        RayExecutor(address)
    assert time.monotonic() - began < 30


def test_too_few_open_files_are_told_before_anything_starts() -> None:
    script = "from raft.workers.ray_executor import RayExecutor; RayExecutor()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    )  # fmt: skip
    assert re.search(r"InputError: ulimit -n: is 64 open files.*inline", done.stderr)


def test_a_full_folder_of_rays_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    full = os.statvfs(tmp_path)
    full = os.statvfs_result((*full[:3], 1, 1, *full[5:]))
    monkeypatch.setattr(ray_start.os, "statvfs", lambda _: full)
    with pytest.raises(InputError, match=r"no space left.*RAY_TMPDIR"):
        RayExecutor()


def test_a_busy_machine_gets_a_second_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def init(address: str, **_: object) -> None:
        started.append(address)
        raise Exception("The current node timed out during startup.")  # Ray's own, of no class

    monkeypatch.setattr(ray_start.ray, "init", init)
    monkeypatch.setattr(ray_start.ray, "shutdown", lambda: None)
    with pytest.raises(InputError, match=r"Ray does not start .*timed out"):
        RayExecutor()
    assert started == ["local", "local"]


@pytest.mark.parametrize("answer", [None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_what_listens_there_and_is_no_cluster(
    answer: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_start, "_CONNECT_SECONDS", 0.5)
    with socket.create_server(("", 0)) as server:

        def serve() -> None:
            kept, _ = server.accept()
            kept.recv(100)
            if answer is not None:  # else it is silent
                kept.sendall(answer)
                kept.close()
            time.sleep(2)

        threading.Thread(target=serve, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(InputError, match=r"cluster\.address: no Ray cluster answers"):
            RayExecutor(f"127.0.0.1:{server.getsockname()[1]}")
        assert time.monotonic() - began < 10
