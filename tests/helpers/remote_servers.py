"""Servers on loopback for the tests of remote rewards: ours, and a stub that misbehaves on cue."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import uvicorn


@dataclass
class Call:
    """One request that the stub got; `number` counts from 1."""

    number: int
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Reply:
    """What the stub answers. `cut` sends fewer bytes than Content-Length promises."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False

    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass
class Stub:
    """A server whose answers a test writes. `most` is the most requests it had at once."""

    answer: Callable[[Call], Reply]
    calls: list[Call] = field(default_factory=list)
    most: int = 0
    url: str = ""
    now: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: threading.Event = field(default_factory=threading.Event)

    def take(self, path: str, headers: Any, body: bytes) -> Reply:
        with self.lock:
            call = Call(len(self.calls) + 1, path, dict(headers), json.loads(body))
            self.calls.append(call)
            self.now += 1
            self.most = max(self.most, self.now)
        reply = self.answer(call)
        # as a server of ours does, where the test says nothing else
        ids = call.body.get("ids") if isinstance(call.body, dict) else None
        if isinstance(reply.body, dict) and {"scores", "probabilities"} & reply.body.keys():
            reply.body = {"ids": ids, **reply.body}
        elif isinstance(reply.body, bytes):
            reply.body = reply.body.replace(b'"IDS"', json.dumps(ids).encode())
        self.stopped.wait(reply.delay)
        with self.lock:
            self.now -= 1
        return reply


@contextlib.contextmanager
def stub(answer: Callable[[Call], Reply]) -> Iterator[Stub]:
    made = Stub(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and body are written apart

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            reply = made.take(self.path, self.headers, body)
            content = reply.content()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            # a client that timed out is gone
            with contextlib.suppress(OSError):
                self.wfile.write(content[: len(content) // 2] if reply.cut else content)
            self.close_connection = reply.cut

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """The URL of an ASGI app that runs in a thread."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="off",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < until and thread.is_alive(), "the server did not start"
        time.sleep(0.005)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(5)
