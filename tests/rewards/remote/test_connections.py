"""A server under clients that say nothing, say half, say too much, or leave: a real process."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import toy_runs

from rewards import RewardError
from rewards.remote import RemoteReward
from rewards.remote.connections import MOST_SILENT_OF_ONE

pytestmark = pytest.mark.slow


class Server:
    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process, self.log = process, log
        until = time.monotonic() + 60
        while not (found := re.search(r"http://127.0.0.1:(\d+)", log.read_text())):
            assert time.monotonic() < until and process.poll() is None, log.read_text()
            time.sleep(0.05)
        self.port, self.url = int(found[1]), found[0]

    def silent(self, said: bytes = b"") -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        made.sendall(said)
        return made

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def peak(self) -> int:
        """Bytes of memory that it had at most since then."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])  # type: ignore[index]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), "function:length") as made:
        yield made
        made.process.send_signal(signal.SIGINT)
        made.process.wait(30)
        assert "Traceback" not in made.log.read_text()


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    yield running
    assert "Traceback" not in running.log.read_text()
    assert running.process.poll() is None


@contextlib.contextmanager
def serving(root: Path, reward: str) -> Iterator[Server]:
    log = root / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*toy_runs.command("serve-reward", "--reward", reward, "--port", "0"),
             "--token-env", "RAFT_TEST_TOKEN"],
            stdout=file, stderr=file, text=True, env={**os.environ, "RAFT_TEST_TOKEN": "secret"},
        )  # fmt: skip
    try:
        yield Server(process, log)
    finally:
        process.kill()
        process.wait()


def ask(server: Server) -> httpx.Response:
    body = {"groups": [{"prompt": "p", "responses": ["four"]}]}
    headers = {"Authorization": "Bearer secret"}
    return httpx.post(f"{server.url}/score", json=body, headers=headers, timeout=30)


def test_silent_connections_lock_nobody_out(server: Server) -> None:
    # more than there are places, and some that have begun a header
    with contextlib.ExitStack() as stack:
        for number in range(300):
            half = b"POST /score HTTP/1.1\r\nHost: x\r\n" if number % 2 else b""
            with contextlib.suppress(OSError):
                stack.enter_context(server.silent(half))
        began = time.monotonic()
        assert ask(server).json()["scores"] == [[1.0]]
        assert time.monotonic() - began < 5


def test_the_oldest_silent_connections_are_closed(server: Server) -> None:
    silent = [server.silent() for _ in range(MOST_SILENT_OF_ONE + 10)]
    assert ask(server).status_code == 200
    silent[0].settimeout(10)
    with contextlib.suppress(ConnectionResetError):
        assert silent[0].recv(1) == b""
    for one in silent:
        one.close()


def test_unfinished_bodies_do_not_fill_the_memory(server: Server) -> None:
    server.forget_peak()
    before, size = server.peak(), 63 << 20
    header = (
        f"POST /score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n"
        f"Content-Length: {size}\r\n\r\n"
    ).encode()

    def unfinished(_: int) -> socket.socket:
        made = server.silent(header)
        made.settimeout(2)
        with contextlib.suppress(OSError):
            made.sendall(b" " * (size - 1))
        return made

    with ThreadPoolExecutor(12) as pool:
        made = list(pool.map(unfinished, range(12)))
    assert server.peak() - before < 600 << 20
    for one in made:
        one.close()
    assert ask(server).status_code == 200


@pytest.mark.parametrize("token", ["secret", "wrong"])
def test_a_body_without_end_is_ended(server: Server, token: str) -> None:
    header = f"POST /score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    with server.silent(f"{header}Transfer-Encoding: chunked\r\n\r\n".encode()) as made:
        made.settimeout(30)
        with pytest.raises(OSError):
            for _ in range(400):
                made.sendall(chunk)
    assert ask(server).status_code == 200


def test_clients_that_leave_leave_no_traceback(server: Server) -> None:
    header = b"POST /score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n"
    for said in (b"", b"nonsense\r\n\r\n", header, header + b"Content-Length: 9\r\n\r\n{"):
        made = server.silent(said)
        # a reset, not an orderly end
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        made.close()
    assert ask(server).status_code == 200


@pytest.mark.thorough
def test_many_requests_at_once_and_in_a_row(server: Server) -> None:
    # what it has no place for it says so, and our client comes back
    remote = RemoteReward(
        server.url, token="secret", batch_size=1, concurrency=200, retries=8, timeout=60.0
    )
    conversations = [
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a " * (n % 9)}]
        for n in range(400)
    ]
    assert remote.score(conversations).tolist() == [n % 9 for n in range(400)]


def test_ctrl_c_with_requests_under_way(tmp_path: Path) -> None:
    body = "import time\ndef score(completions, **_):\n    time.sleep(8)\n    return [1.0]\n"
    (tmp_path / "slow.py").write_text(body)
    with serving(tmp_path, f"function:{tmp_path / 'slow.py'}:score") as server:
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(ask, server) for _ in range(3)]
            time.sleep(1)
            server.process.send_signal(signal.SIGINT)
            server.process.wait(30)
            for one in asked:
                with contextlib.suppress(httpx.HTTPError):
                    assert one.result().status_code in (200, 499, 503)
        assert "Traceback" not in server.log.read_text()


def test_texts_that_are_too_long_and_groups_without_responses(server: Server) -> None:
    headers = {"Authorization": "Bearer secret"}
    for groups in (
        [{"prompt": "p", "responses": ["a" * (1 << 21)]}],
        [{"prompt": "p", "responses": []}] * 5000,
    ):
        answer = httpx.post(f"{server.url}/score", json={"groups": groups}, headers=headers)
        assert answer.status_code == 413, answer.text


def test_our_client_is_told_what_is_wrong(server: Server) -> None:
    with pytest.raises(RewardError, match="token"):
        RemoteReward(server.url, token="wrong", retries=0).score(["a text"])
