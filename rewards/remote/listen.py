"""`serve`: a reward or judge on a port, on this machine alone unless there is a token."""

from __future__ import annotations

import logging
import socket
from typing import Any

from rewards.remote.address import is_loopback, read_token
from rewards.remote.server import MAX_BATCH, MAX_BYTES, build_app
from rollout.types import InputError

__all__ = ["HOST", "PORT", "serve"]

log = logging.getLogger("rewards")

HOST = "127.0.0.1"
PORT = 8100
# connections at once; the rest get a 503 and come back
MAX_CONNECTIONS = 256
# seconds that requests under way get after Ctrl-C
GRACE = 5


def serve(
    served: Any,
    *,
    host: str = HOST,
    port: int = PORT,
    token: str | None = None,
    token_env: str | None = None,
    name: str | None = None,
    max_batch: int = MAX_BATCH,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Serve until interrupted; port 0 takes a free one, which the log names.

    Ctrl-C ends requests under way, then raises `KeyboardInterrupt`.
    Raises `InputError` for a host other than loopback without a token, a port that cannot be had,
    and as `build_app`.
    """
    import uvicorn

    secret = read_token(token, token_env)
    if secret is None and not is_loopback(host):
        raise InputError(
            f"host={host} can be reached by others: set a token (token_env), or use {HOST}"
        )
    app = build_app(served, token=secret, name=name, max_batch=max_batch, max_bytes=max_bytes)
    config = uvicorn.Config(
        app,
        log_config=None,  # the command line has set up logging
        access_log=False,
        lifespan="off",
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=GRACE,
        server_header=False,
    )
    with _bound(host, port) as listening:
        shown = f"[{host}]" if ":" in host else host
        log.info(
            "serving on http://%s:%d (%s)",
            shown, listening.getsockname()[1], "token needed" if secret else "no token",
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[listening])


def _bound(host: str, port: int) -> socket.socket:
    """A socket bound here, so that a port in use is one line of ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host.strip("[]"), port))
    except (OSError, OverflowError) as error:
        found.close()
        raise InputError(
            f"cannot listen on {host}:{port} ({error}): choose another port"
        ) from error
    return found
