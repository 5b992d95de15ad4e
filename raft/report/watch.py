"""`raft watch`: serve the report's page on this machine, made anew as rows of the run arrive.

An outer page polls the version of the report's page and reloads it in a frame, at the place where
the reader is. No other machine is served.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import threading
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from raft.report.write import write_report
from rollout.errors import InputError

__all__ = ["Live", "serve_live"]

log = logging.getLogger("raft")

_POLL_SECONDS = 3
_SHELL = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}, live</title>
<style>
:root {{ color-scheme: light dark }}
body {{ margin: 0; display: flex; flex-direction: column; height: 100vh; font: 14px system-ui }}
p {{ margin: 0; padding: 4px 12px }}
iframe {{ border: 0; flex: 1 }}
</style>
<p role="status" id="said">live</p><iframe id="page" title="report" src="/page"></iframe>
<script>
"use strict";
let shown = null;
const frame = document.getElementById("page"), said = document.getElementById("said");
async function look() {{
  try {{
    const now = await (await fetch("/state")).json();
    if (shown !== null && now.version !== shown) {{
      const at = frame.contentWindow.location.hash, down = frame.contentWindow.scrollY;
      frame.onload = () => frame.contentWindow.scrollTo(0, down);
      frame.src = "/page?" + now.version + at;
    }}
    shown = now.version;
    said.textContent = now.said;
  }} catch {{ said.textContent = "raft watch has ended; what is shown stays"; }}
}}
look(); setInterval(look, {poll});
</script>"""


class Live:
    """The newest page of a run, made when somebody asks and the run's files have changed."""

    def __init__(self, run: str | Path) -> None:
        self._run = Path(run)
        self._lock = threading.Lock()
        self._seen: object = None
        self._version = 0
        self._page = b""
        self.said = ""

    def page(self) -> tuple[int, bytes]:
        """Return the page's version, which rises whenever files of the run change, and the page."""
        with self._lock:
            now = self._files()
            if now != self._seen:
                self._seen, self._version = now, self._version + 1
                self._page = self._made()
            return self._version, self._page

    def shell(self) -> bytes:
        title = escape(self._run.resolve().name)
        shell = _SHELL.format(title=title, poll=1000 * _POLL_SECONDS)
        return shell.encode(errors="backslashreplace")

    def _files(self) -> list[tuple[str, int, int]]:
        names = ("metrics.jsonl", "guards.jsonl", "stopped.json", "iterations/*/*.jsonl")
        found: list[tuple[str, int, int]] = []
        for path in (path for name in names for path in sorted(self._run.glob(name))):
            try:
                stat = path.stat()
            except FileNotFoundError:  # the run clears an iteration away
                continue
            found.append((str(path), stat.st_size, stat.st_mtime_ns))
        return found

    def _made(self) -> bytes:
        with tempfile.TemporaryDirectory(prefix="raft-watch-") as folder:
            try:
                page = write_report(self._run, Path(folder) / "report.html").read_bytes()
            except InputError as error:
                self.said = f"waiting: {error}"
                return b"<!doctype html><meta charset=utf-8><p>" + escape(str(error)).encode()
        ended = (self._run / "stopped.json").exists()
        self.said = (
            f"{self._run}: {'stopped by a guard' if ended else 'live'}, page {self._version}"
        )
        return page


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report an error of a request, except where the reader has closed the connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def serve_live(run: str | Path, port: int) -> ThreadingHTTPServer:
    """Return a server on 127.0.0.1, to be run by `serve_forever`. Port 0 takes any free one.

    Raises InputError where the port cannot be used.
    """
    import json

    live = Live(run)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if not self._is_here():
                self.send_error(403)
            elif path == "/":
                self._answer(live.shell(), "text/html; charset=utf-8")
            elif path == "/page":
                self._answer(live.page()[1], "text/html; charset=utf-8")
            elif path == "/state":
                version, _ = live.page()
                state = json.dumps({"version": version, "said": live.said})
                self._answer(state.encode(), "application/json")
            else:
                self.send_error(404)

        def _is_here(self) -> bool:
            """Return whether the request's host is this machine, by a name of its own.

            Another site could let a name of its own point here, and read the page through that.
            """
            host = self.headers.get("Host", "").rpartition(":")[0]
            return host in ("127.0.0.1", "localhost")

        def _answer(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing: every poll would be a line."""

    try:
        return _Server(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        fix = "use another, or 0 for any free one"
        raise InputError(f"--port {port}", f"cannot be had ({error})", fix) from error
