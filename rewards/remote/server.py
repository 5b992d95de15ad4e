"""Serve a reward or a judge over HTTP: on this machine alone, unless there is a token.

The app checks tokens and sizes, runs one job at a time, and answers every error with one line; what
requests mean is in `rewards.remote.service`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import resource
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rewards.remote import messages as wire
from rewards.remote.address import is_loopback, read_token
from rewards.remote.connections import BodyBudget, Connection, announced, read_body
from rewards.remote.protocols import check_positive
from rewards.remote.service import Job, Service
from rewards.types import RewardError, calls_at_once
from rollout.text.printable import one_line
from rollout.types import InputError

__all__ = [
    "HOST",
    "PORT",
    "build_app",
    "serve",
]

log = logging.getLogger("rewards")

# scores in one request, bytes of it, bytes of all requests at once
MAX_BATCH = 4096
MAX_BYTES = 64 << 20
BODY_BYTES = 256 << 20
GONE = 499  # nginx's status for a client that has left; nobody reads it


def build_app(
    served: object,
    *,
    token: str | None = None,
    name: str | None = None,
    max_batch: int = MAX_BATCH,
    max_bytes: int = MAX_BYTES,
) -> Starlette:
    """Return the ASGI app that serves a reward, or a judge, or what is both.

    `name` is what the app answers as (the served object's own name otherwise); `token` is asked for
    on every route but `/health`. Raises `InputError` for what cannot be served.
    """
    check_positive(max_batch=max_batch, max_bytes=max_bytes)
    service = Service(served, name or _own_name(served), max_batch)
    guard = _Guard(read_token(token))
    turns = _Turns(calls_at_once(served))
    budget = BodyBudget(max(BODY_BYTES, max_bytes))

    async def health(_: Request) -> Response:
        return JSONResponse(service.health())

    routes = [Route("/health", health)]
    for path, parse in service.routes.items():
        answer = _answer(guard, turns, parse, budget, max_bytes)
        routes.append(Route(path, answer, methods=["POST"]))
    return Starlette(routes=routes, exception_handlers={HTTPException: _unknown(service)})


class _Guard:
    """A check of tokens, in constant time."""

    def __init__(self, token: str | None) -> None:
        # digests are equally long: not even the token's length shows in the time it takes
        self._digest = None if token is None else _digest(f"Bearer {token}")

    def check(self, request: Request) -> None:
        if self._digest is None:
            return
        given = _digest(request.headers.get("Authorization", ""))
        if not hmac.compare_digest(given, self._digest):
            message = "a token is needed: Authorization: Bearer …"
            raise wire.Refusal(401, message, closes="Transfer-Encoding" in request.headers)


class _Turns:
    """A queue of jobs: one runs at a time, always in the same thread, since models are not
    re-entrant; or as many as there are workers behind what is served."""

    def __init__(self, at_once: int) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="scoring")

    async def run(self, job: Job, request: Request) -> wire.Answer | None:
        """Return the job's result; None when the client left while the job waited."""
        async with self._free:
            if await request.is_disconnected():
                return None
            return await asyncio.get_running_loop().run_in_executor(self._threads, job)


def _answer(
    guard: _Guard,
    turns: _Turns,
    read: Callable[[bytes], Job],
    budget: BodyBudget,
    max_bytes: int,
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            guard.check(request)
            async with budget.hold(announced(request, max_bytes)):
                job = read(await read_body(request, max_bytes))
                result = await turns.run(job, request)
        except asyncio.CancelledError:  # by Ctrl-C, when the time for requests under way is over
            return _error(503, "the server has ended")
        except wire.Refusal as refusal:
            return _error(refusal.status, refusal.message, closes=refusal.closes)
        except ClientDisconnect:
            return Response(status_code=GONE)
        except InputError as error:
            return _error(400, str(error))
        except RewardError as error:
            log.warning("%s: %s", request.url.path, error)
            return _error(500, str(error))
        except Exception as error:  # a model may fail with anything; the next request may not
            log.exception("%s failed", request.url.path)
            return _error(500, f"{type(error).__name__}: {error}")
        return Response(status_code=GONE) if result is None else JSONResponse(result.model_dump())

    return answer


def _unknown(service: Service) -> Callable[[Request, Exception], Awaitable[Response]]:
    known = ", ".join(sorted(service.routes))

    async def handle(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"{error.detail}: POST to {known}, or GET /health"
        return JSONResponse({"error": message}, error.status_code, error.headers)

    return handle


def _error(status: int, message: str, *, closes: bool = False) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    headers |= {"Connection": "close"} if closes else {}
    return JSONResponse({"error": one_line(message, 1000)}, status, headers)


def _own_name(served: object) -> str:
    name = getattr(served, "name", None)
    return name if isinstance(name, str) and name else type(served).__name__


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


HOST = "127.0.0.1"
PORT = 8100
# connections at once, where the machine allows them; further ones get a 503 and may retry
MAX_CONNECTIONS = 8192
_OWN_FILES = 64
_BACKLOG = 2048
# seconds that requests under way get after Ctrl-C
GRACE = 5


def serve(
    served: object,
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

    Ctrl-C ends requests under way, then raises `KeyboardInterrupt`. Raises `InputError` for a host
    other than loopback without a token, a port that cannot be used, and as `build_app`.
    """
    import uvicorn

    secret = read_token(token, token_env)
    if secret is None and not is_loopback(host):
        raise InputError(
            f"host={host}",
            "can be reached by others",
            f"set a token (token_env), or use {HOST}",
        )
    app = build_app(served, token=secret, name=name, max_batch=max_batch, max_bytes=max_bytes)
    config = uvicorn.Config(
        app,
        log_config=None,  # the command line has set up logging
        access_log=False,
        lifespan="off",
        http=Connection,
        limit_concurrency=_most_connections(),
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


def _most_connections() -> int:
    """Return how many connections may be open at once: at most 8192, as the open-file limit allows.

    That limit is raised as far as it may be, and some files are left for the process itself.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + _OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, soft - _OWN_FILES)


def _bound(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises `InputError` where the port is in use or not allowed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host.strip("[]"), port))
        found.listen(_BACKLOG)  # before the log names the address: its readers may connect
    except (OSError, OverflowError) as error:
        found.close()
        raise InputError(
            "port", f"cannot listen on {host}:{port} ({error})", "choose another port"
        ) from error
    return found
