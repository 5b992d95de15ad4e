"""Serve a reward or a judge over HTTP: on this machine alone, unless there is a token.

`Service` knows requests and scores; the app around it checks tokens and sizes, runs one job at a
time, and answers every error with one line.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import math
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rewards.encoding.formats import Rendered
from rewards.remote import messages as wire
from rewards.remote.address import is_loopback, read_token
from rewards.remote.protocols import check_positive
from rewards.types import Comparison, RewardError
from rollout.text.printable import one_line
from rollout.types import Completion, Group, InputError, Message, Prompt

__all__ = [
    "HOST",
    "PORT",
    "Service",
    "build_app",
    "serve",
]

Job = Callable[[], wire.Answer]


class Service:
    """The routes that a reward (`score` or `score_groups`) or a judge (`compare`) can serve.

    A route takes a request's bytes, raises `Refusal` when it is wrong, and returns the job that
    answers it: reading is cheap and may overlap, jobs may not.
    Raises `InputError` for an object that is neither reward nor judge.
    """

    def __init__(self, served: Any, name: str, max_batch: int) -> None:
        self.served = served
        self.name = name
        self.max_batch = max_batch
        self.routes: dict[str, Callable[[bytes], Job]] = {}
        if hasattr(served, "score_groups") or hasattr(served, "score"):
            self.routes["/score"] = self.score
        if hasattr(served, "score"):
            self.routes["/get_reward"] = self.get_reward
        if hasattr(served, "compare"):
            self.routes["/compare"] = self.compare
        if not self.routes:
            raise InputError(
                type(served).__name__,
                "cannot be served: it is neither a reward nor a judge",
            )

    def health(self) -> dict[str, object]:
        # no name, which may be a path: whoever asks has shown no token
        return {"status": "ok", "routes": sorted(self.routes), "version": wire.VERSION}

    def score(self, body: bytes) -> Job:
        request = wire.read_request(wire.ScoreRequest, body)
        self._check_model(request.model)
        if request.groups is not None:
            groups = [row.group(number) for number, row in enumerate(request.groups)]
            self._check_size(sum(len(group.completions) for group in groups))
            return lambda: wire.GroupScores(scores=self._score_groups(groups), model=self.name)
        turns = request.turns()
        self._check_size(len(turns))
        if hasattr(self.served, "score"):
            return lambda: wire.Scores(scores=self._score(turns), model=self.name)
        groups = [_as_group(one, number) for number, one in enumerate(turns)]
        return lambda: wire.Scores(
            scores=[one for row in self._score_groups(groups) for one in row], model=self.name
        )

    def get_reward(self, body: bytes) -> Job:
        request = wire.read_request(wire.GetRewardRequest, body)
        self._check_size(len(request.query))
        # OpenRLHF's clients apply the template themselves
        texts = [Rendered(text) for text in request.query]
        return lambda: wire.Rewards(rewards=self._all_present(self._score(texts)))

    def compare(self, body: bytes) -> Job:
        request = wire.read_request(wire.CompareRequest, body)
        self._check_model(request.model)
        self._check_size(len(request.comparisons))
        pairs = [pair.comparison() for pair in request.comparisons]
        return lambda: wire.Probabilities(probabilities=self._compare(pairs), model=self.name)

    def _score(self, conversations: Sequence[object]) -> list[float | None]:
        if not conversations:
            return []
        return _numbers(self.served.score(conversations), len(conversations))

    def _score_groups(self, groups: Sequence[Group]) -> list[list[float | None]]:
        if not hasattr(self.served, "score_groups"):
            raise wire.Refusal(400, 'this reward scores "conversations" only')
        rows = self.served.score_groups(groups)
        if len(rows) != len(groups):
            raise RewardError(f"the reward gave {len(rows)} lists for {len(groups)} groups")
        pairs = zip(rows, groups, strict=True)
        return [_numbers(row, len(group.completions)) for row, group in pairs]

    def _compare(self, pairs: Sequence[Comparison]) -> list[float | None]:
        if not pairs:
            return []
        verdicts = self.served.compare(pairs)
        # `rewards.tournament.verdicts.Verdicts` say more than their probabilities
        return _numbers(getattr(verdicts, "probability_N", verdicts), len(pairs))

    def _all_present(self, scores: list[float | None]) -> list[float | None]:
        # OpenRLHF makes a tensor of what it gets: it has no missing scores
        if None in scores:
            raise RewardError(f"no score for query {scores.index(None)}")
        return scores

    def _check_size(self, count: int) -> None:
        if count > self.max_batch:
            raise wire.Refusal(413, f"{count} scores in one request; at most {self.max_batch}")

    def _check_model(self, model: str | None) -> None:
        if model is not None and model != self.name:
            raise wire.Refusal(400, f"this server has {self.name!r}, not {model!r}")


def _as_group(conversation: str | list[Message], number: int) -> Group:
    """A conversation for a reward that reads groups only: what comes before is the prompt."""
    where = f"conversations.{number}"
    if isinstance(conversation, str):
        raise wire.Refusal(400, f"{where}: this reward scores messages, not whole texts")
    if len(conversation) < 2 or conversation[-1]["role"] != "assistant":
        raise wire.Refusal(400, f"{where}: a prompt and, last, the assistant's response are needed")
    answer = Completion(conversation[-1]["content"], message=conversation[-1])
    return Group(Prompt(f"conversation {number}", tuple(conversation[:-1])), (answer,), 0)


def _numbers(values: Iterable[float | None], expected: int) -> list[float | None]:
    """Scores as JSON numbers; NaN and None are missing. Infinity is an error, as a count is."""
    numbers = [math.nan if value is None else float(value) for value in values]
    if len(numbers) != expected:
        raise RewardError(f"the reward gave {len(numbers)} scores for {expected}")
    if any(math.isinf(number) for number in numbers):
        raise RewardError("the reward gave an infinite score")
    return [None if math.isnan(number) else number for number in numbers]


log = logging.getLogger("rewards")

# scores in one request, and bytes of it
MAX_BATCH = 4096
MAX_BYTES = 64 << 20
GONE = 499  # nginx's number for a client that did not wait; nobody reads it


def build_app(
    served: object,
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
    for path, parse in service.routes.items():
        answer = _answer(guard, turns, parse, max_bytes)
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
            raise wire.Refusal(401, "a token is needed: Authorization: Bearer …")


class _Turns:
    """Runs jobs one at a time, always in the same thread: models are not re-entrant."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scoring")

    async def run(self, job: Job, request: Request) -> wire.Answer | None:
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
        except wire.Refusal as refusal:
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
        return Response(status_code=GONE) if result is None else JSONResponse(result.model_dump())

    return answer


async def _body(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise wire.Refusal(413, f"the request is larger than {limit} bytes: send less")
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
    return JSONResponse({"error": one_line(message, 1000)}, status, headers)


def _own_name(served: object) -> str:
    name = getattr(served, "name", None)
    return name if isinstance(name, str) and name else type(served).__name__


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


HOST = "127.0.0.1"
PORT = 8100
# connections at once; the rest get a 503 and come back
MAX_CONNECTIONS = 256
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

    Ctrl-C ends requests under way, then raises `KeyboardInterrupt`.
    Raises `InputError` for a host other than loopback without a token, a port that cannot be had,
    and as `build_app`.
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
            "port", f"cannot listen on {host}:{port} ({error})", "choose another port"
        ) from error
    return found
