"""The ASGI app around a `Service`: tokens, sizes, one job at a time, errors of one line."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rewards.remote.address import read_token
from rewards.remote.items import check_positive
from rewards.remote.service import Job, Service
from rewards.remote.wire import Refusal
from rewards.types import RewardError
from rollout.types import InputError

__all__ = ["build_app"]

log = logging.getLogger("rewards")

# scores in one request, and bytes of it
MAX_BATCH = 4096
MAX_BYTES = 64 << 20
GONE = 499  # nginx's number for a client that did not wait; nobody reads it


def build_app(
    served: Any,
    *,
    token: str | None = None,
    name: str | None = None,
    max_batch: int = MAX_BATCH,
    max_bytes: int = MAX_BYTES,
) -> Starlette:
    """The ASGI app that serves a reward, or a judge, or what is both.

    `name` is what it answers as (its own name otherwise); `token` is asked for on every route but
    `/health`. Raises `InputError` for what cannot be served.
    """
    check_positive(max_batch=max_batch, max_bytes=max_bytes)
    service = Service(served, name or _own_name(served), max_batch)
    guard = _Guard(read_token(token))
    turns = _Turns()

    async def health(_: Request) -> Response:
        return JSONResponse(service.health())

    routes = [Route("/health", health)]
    for path, read in service.routes.items():
        answer = _answer(guard, turns, read, max_bytes)
        routes.append(Route(path, answer, methods=["POST"]))
    return Starlette(routes=routes, exception_handlers={HTTPException: _unknown(service)})


class _Guard:
    """Compares tokens in constant time."""

    def __init__(self, token: str | None) -> None:
        # digests are equally long: not even the token's length shows in the time it takes
        self._digest = None if token is None else _digest(f"Bearer {token}")

    def check(self, request: Request) -> None:
        if self._digest is None:
            return
        given = _digest(request.headers.get("Authorization", ""))
        if not hmac.compare_digest(given, self._digest):
            raise Refusal(401, "a token is needed: Authorization: Bearer …")


class _Turns:
    """Runs jobs one at a time, always in the same thread: models are not re-entrant."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scoring")

    async def run(self, job: Job, request: Request) -> dict[str, Any] | None:
        """The job's result; None when the client left while others had their turn."""
        async with self._lock:
            if await request.is_disconnected():
                return None
            return await asyncio.get_running_loop().run_in_executor(self._thread, job)


def _answer(
    guard: _Guard, turns: _Turns, read: Callable[[bytes], Job], max_bytes: int
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            guard.check(request)
            job = read(await _body(request, max_bytes))
            result = await turns.run(job, request)
        except Refusal as refusal:
            return _error(refusal.status, refusal.message)
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
        return Response(status_code=GONE) if result is None else JSONResponse(result)

    return answer


async def _body(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise Refusal(413, f"the request is larger than {limit} bytes: send fewer at a time")
    return bytes(body)


def _unknown(service: Service) -> Callable[[Request, Exception], Awaitable[Response]]:
    known = ", ".join(sorted(service.routes))

    async def handle(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"{error.detail}: POST to {known}, or GET /health"
        return JSONResponse({"error": message}, error.status_code, error.headers)

    return handle


def _error(status: int, message: str) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": " ".join(message.split())[:1000]}, status, headers)


def _own_name(served: Any) -> str:
    name = getattr(served, "name", None)
    return name if isinstance(name, str) and name else type(served).__name__


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
