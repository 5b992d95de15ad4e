"""Workers forked from a process that has their libraries loaded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_parts import Part

from raft.workers.executors import Resources
from raft.workers.fork_server import ForkServer, shared_server
from raft.workers.ray_executor import RayExecutor
from rollout.types import WorkerDiedError

SCRIPT = """
import gc, json, os, sys
assert gc.isenabled()
told = sys.stdin.read()
before = [name for name in ("slow", "broken", "wave") if name in sys.modules]
print(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ), told, before, sys.path]))
print("to the error stream", file=sys.stderr)
sys.exit(int(sys.argv[-1]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(0.5)\n")
    (tmp_path / "broken.py").write_text("raise OSError('not here')\n")
    (tmp_path / "sleeps.py").write_text(
        "import time, os\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n"
    )
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[ForkServer]:
    made = ForkServer({"PYTHONPATH": str(folder), "GONE": "1", "KEPT": "old"})
    yield made
    made.close()


def started(command: str, *arguments: object, **more: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen(
        ["bash", "-c", f'exec {command} "$@"', "-", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | more,
        cwd="/",
    )


def test_a_fork_is_as_a_python_of_its_own(server: ForkServer, folder: Path) -> None:
    server.load(["slow", "broken"])
    code = 3
    one = started(server.command(["slow"]), folder / "script.py", "a b", code, KEPT="new")
    out, err = one.communicate("from its input")
    assert (one.returncode, err) == (code, "to the error stream\n")
    arguments, where, environment, told, before, _ = json.loads(out)
    assert (arguments, where, told) == (["a b", str(code)], "/", "from its input")
    assert environment["KEPT"] == "new" and "GONE" not in environment
    assert "slow" in before and "broken" not in before  # waited for; what fails is not there


def test_what_nobody_has_asked_for_is_imported_for_the_one_who_does(
    server: ForkServer, folder: Path
) -> None:
    for _ in range(2):
        one = started(server.command(["wave"]), folder / "script.py", 0, PYTHONPATH="/first")
        assert one.stdin is not None
        before, path = json.loads(one.communicate("")[0])[4:]
        assert before == ["wave"] and path[0] == "/first"


def test_a_fork_ends_with_the_command_and_the_command_with_the_fork(
    server: ForkServer, folder: Path
) -> None:
    def sleeping() -> tuple[subprocess.Popen[str], int]:
        one = started(server.command([]), folder / "sleeps.py")
        assert one.stdout is not None
        return one, int(one.stdout.readline())

    command, fork = sleeping()
    assert fork != command.pid
    command.kill()
    until = time.monotonic() + 20
    while Path(f"/proc/{fork}").exists():
        assert time.monotonic() < until, "the fork lives on"
        time.sleep(0.01)
    command, fork = sleeping()
    os.kill(fork, signal.SIGKILL)
    assert command.wait(timeout=20) != 0


def test_without_a_server_python_starts(server: ForkServer, folder: Path) -> None:
    command = server.command(["slow"])
    server._process.kill()
    server._process.wait()
    server.load(["slow"])  # nobody hears it
    one = started(command, folder / "script.py", 0)
    assert json.loads(one.communicate("")[0])[4] == []
    assert one.returncode == 0


def test_the_server_ends_with_its_process(folder: Path) -> None:
    script = (
        "import os, sys; from raft.workers.fork_server import ForkServer\n"
        "server = ForkServer({}); print(server._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    until = time.monotonic() + 20
    while Path(f"/proc/{int(ended.stdout)}/cwd").exists():
        assert time.monotonic() < until, "the server lives on"
        time.sleep(0.01)


@pytest.mark.ray
def test_actors_are_forks_and_their_deaths_are_seen() -> None:
    with shared_server() as server:
        assert server is not None
        executor = RayExecutor(imports=["wave"])
        try:
            loaded = Resources(imports=("wave",), environment=(("SOME_SETTING", "value"),))
            workers = [executor.spawn(Part, loaded) for _ in range(3)]
            assert workers[0].call(Part.environment, "SOME_SETTING").result() == ["value"]
            pids = {worker.call(Part.pid).result() for worker in workers}
            parents = {
                int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                for pid in pids
            }
            assert len(pids) == 3 and parents == {server._process.pid}
            os.kill(workers[0].call(Part.pid).result(), signal.SIGKILL)
            with pytest.raises(WorkerDiedError):
                workers[0].call(Part.pid).result()
            again = executor.spawn(Part, loaded)  # a replacement is a fork as well
            assert again.call(Part.pid).result() not in pids
        finally:
            executor.close()
        assert server._process.poll() is None  # somebody else holds it
