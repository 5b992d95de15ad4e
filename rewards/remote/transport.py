"""Send batches of JSON to a server, retrying what may succeed later.

This module knows HTTP, and nothing of what the JSON means. Requests in flight, answers and waits
are bounded; a batch that fails for good raises one line with what the server said and the fix.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from http import HTTPStatus
from random import SystemRandom
from typing import NamedTuple, TypeVar

import httpx

from rewards.remote.address import Address
from rewards.remote.protocols import Item, check_positive, name_all
from rewards.types import RewardError
from rollout.text.printable import one_line
from rollout.types import InputError

__all__ = [
    "LONGEST_WAIT",
    "Backoff",
    "Transport",
    "refusal",
    "retry_after",
]

# seconds: what a server may ask for with Retry-After, and where the back-off stops growing
LONGEST_WAIT = 60.0


def _jitter(low: float, high: float) -> float:
    # workers that fail together must wait differently, and waits change no result: so these numbers
    # come neither from the run's seed nor from a generator that results depend on
    return SystemRandom().uniform(low, high)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double from `first` seconds to `longest`, each shortened by up to a half."""

    first: float = 0.5
    longest: float = LONGEST_WAIT
    uniform: Callable[[float, float], float] = _jitter

    def wait(self, attempt: int, asked: float | None = None) -> float:
        """Return the seconds to wait after try `attempt` (from 1), at least `asked` if given."""
        full = min(self.longest, self.first * 2.0 ** min(attempt - 1, 60))
        return max(asked or 0.0, self.uniform(full / 2, full))


def retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds in a Retry-After header, a number or a date (RFC 9110, 10.2.3).

    Returns None without a header, or for one that is neither.
    """
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        when = parsedate_to_datetime(header)
    except ValueError:  # a header that is no date counts as none
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


def refusal(status: int, body: bytes, location: str | None, address: Address) -> str:
    """Return a line that says what the server answered and how to fix it.

    `location` is where a redirect leads; None for other answers.
    """
    said = _said(body)
    reason = f"it answered {status} {_phrase(status)}{f': {said}' if said else ''}"
    hint = _hint(status, location, has_token=address.token is not None)
    return f"{reason}{f': {hint}' if hint else ''}"


def _hint(status: int, location: str | None, *, has_token: bool) -> str:
    if 300 <= status < 400:
        to = f" to {one_line(location, 200)}" if location else ""
        return f"it redirects{to}, and redirects are not followed: give the final url"
    if status in (401, 403):
        if has_token:
            return "it does not accept the token: check it"
        return "set the token (token_env, the name of an environment variable)"
    if status in (404, 405):
        return "check the url (one with a path is used as it is), the protocol and the model"
    if status == 413:
        return "use a smaller batch_size"
    return ""


def _said(body: bytes) -> str:
    """Return the server's own message as one line: from JSON (ours, vLLM's, FastAPI's) or text."""
    text = body.decode(errors="replace")
    try:
        return one_line(_message(json.loads(text))).rstrip(".")
    except (ValueError, RecursionError):  # an HTML page of a gateway, say
        return one_line(text).rstrip(".")


def _message(answer: object) -> str:
    if isinstance(answer, dict):
        for key in ("error", "message", "detail", "msg"):
            if answer.get(key):
                return _message(answer[key])
    if isinstance(answer, list) and answer:
        return _message(answer[0])
    return answer if isinstance(answer, str) else json.dumps(answer)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # gateways invent their own
        return ""


log = logging.getLogger("rewards")

T = TypeVar("T")
R = TypeVar("R")
Encode = Callable[[Sequence[Item]], dict[str, object]]
Decode = Callable[[object, Sequence[Item]], list[T]]

RETRIED = (429, 500, 502, 503, 504)
# bytes that an answer may have: far more than a correct one needs, and far less than the memory
ANSWER_FLOOR = 1 << 20
ANSWER_PER_SCORE = 1 << 12


class _Reply(NamedTuple):
    status: int
    headers: httpx.Headers
    body: bytes


class _Transient(Exception):
    """A failed try that may be repeated. `asked`: the server's Retry-After, in seconds."""

    def __init__(self, why: str, asked: float | None = None) -> None:
        super().__init__(why)
        self.asked = asked


class Transport:
    """The sender of batches to one address.

    Args:
        timeout: seconds for one request as a whole, from connecting to the last byte.
        concurrency: how many requests may be under way at once.
        retries: further tries after a failed connection, a timeout, 429 or 500, 502, 503, 504.
        backoff: seconds before the first of them; doubled each time, up to 60.

    A batch that fails does so within (retries + 1) × (timeout + 60) seconds, and ends the others.
    Raises `InputError` for a setting out of range.
    """

    def __init__(
        self, address: Address, *, timeout: float, concurrency: int, retries: int, backoff: float
    ) -> None:
        check_positive(timeout=timeout, concurrency=concurrency, backoff=backoff)
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise InputError(f"retries={retries!r}", "must be a whole number, 0 or more")
        if not isinstance(concurrency, int):
            raise InputError(f"concurrency={concurrency!r}", "must be a whole number")
        self.address = address
        self.timeout = timeout
        self.concurrency = concurrency
        self.retries = retries
        self.backoff = Backoff(backoff)

    def exchange(
        self, batches: Sequence[Sequence[Item]], encode: Encode, decode: Decode[T]
    ) -> list[T]:
        """Return what `decode` makes of the answers to all batches, in the order of the batches.

        Raises `RewardError` naming the address, the reason, the number of tries and the prompts as
        soon as one batch has failed for good; the rest is cancelled.
        """
        if not batches:
            return []
        return _run_apart(lambda: self._exchange(batches, encode, decode))

    async def _exchange(
        self, batches: Sequence[Sequence[Item]], encode: Encode, decode: Decode[T]
    ) -> list[T]:
        results: list[list[T]] = [[] for _ in batches]
        waiting = iter(enumerate(batches))
        async with self._client() as client:

            async def work(left: Iterator[tuple[int, Sequence[Item]]]) -> None:
                for index, items in left:  # the workers share one iterator
                    results[index] = await self._batch(client, items, encode, decode)

            workers = [
                asyncio.create_task(work(waiting))
                for _ in range(min(self.concurrency, len(batches)))
            ]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return [one for result in results for one in result]

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            headers={**self.address.headers(), "Accept": "application/json"},
            verify=_certificates(),
            # proxies of the environment are for other machines
            trust_env=not self.address.loopback,
            timeout=None,  # ours is for the whole request; httpx's is for each of its reads
            follow_redirects=False,
            limits=httpx.Limits(max_connections=self.concurrency),
        )

    async def _batch(
        self, client: httpx.AsyncClient, items: Sequence[Item], encode: Encode, decode: Decode[T]
    ) -> list[T]:
        try:
            body = await self._send(client, _dumps(encode(items), items), items)
            return decode(_loads(body), items)
        except RewardError as error:
            reason = self.address.masked(str(error))
            raise RewardError(
                f"reward server {self.address.url}: {reason} (for {name_all(items)})"
            ) from error

    async def _send(self, client: httpx.AsyncClient, body: bytes, items: Sequence[Item]) -> bytes:
        limit = ANSWER_FLOOR + ANSWER_PER_SCORE * sum(item.count for item in items)
        tries = 1
        while True:
            try:
                return self._accepted(await self._try(client, body, limit))
            except _Transient as fault:
                if tries > self.retries or (fault.asked or 0) > LONGEST_WAIT:
                    plural = "tries" if tries > 1 else "try"
                    raise RewardError(f"{fault}, after {tries} {plural}") from fault
                wait = self.backoff.wait(tries, fault.asked)
                log.warning(
                    "reward server %s: %s; try %d of %d follows in %.1f s",
                    self.address.url, self.address.masked(str(fault)), tries + 1,
                    self.retries + 1, wait,
                )  # fmt: skip
            await asyncio.sleep(wait)
            tries += 1

    async def _try(self, client: httpx.AsyncClient, body: bytes, limit: int) -> _Reply:
        headers = {"Content-Type": "application/json"}
        request = client.build_request("POST", self.address.url, content=body, headers=headers)
        try:
            async with asyncio.timeout(self.timeout):
                reply = await client.send(request, stream=True)
                try:
                    return _Reply(reply.status_code, reply.headers, await _read(reply, limit))
                finally:
                    await reply.aclose()
        except TimeoutError as error:
            raise _Transient(f"no answer within {self.timeout:g} s") from error
        except httpx.ConnectError as error:
            raise _Transient(f"cannot connect ({_line(error)})") from error
        except httpx.TransportError as error:
            raise _Transient(f"the connection broke ({_line(error)})") from error
        except httpx.DecodingError as error:
            raise RewardError(f"its answer cannot be decompressed ({_line(error)})") from error

    def _accepted(self, reply: _Reply) -> bytes:
        """Return the body of a 2xx answer.

        Raises `_Transient` for a status of `RETRIED`, `RewardError` for any other.
        """
        if 200 <= reply.status < 300:
            return reply.body
        why = refusal(reply.status, reply.body, reply.headers.get("Location"), self.address)
        if reply.status in RETRIED:
            raise _Transient(why, retry_after(reply.headers.get("Retry-After")))
        raise RewardError(why)


async def _read(reply: httpx.Response, limit: int) -> bytes:
    body = bytearray()
    async for chunk in reply.aiter_bytes():
        body += chunk
        if len(body) > limit:
            raise RewardError(f"its answer is larger than {limit} bytes: this is no reward server")
    return bytes(body)


def _dumps(body: dict[str, object], items: Sequence[Item]) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name_all(items)}",
            f"cannot be sent as JSON ({_line(error)})",
            "fix the text, or leave columns out",
        ) from error


def _loads(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        start = " ".join(body[:60].decode(errors="replace").split())
        raise RewardError(
            f"its answer of {len(body)} bytes is not JSON ({_line(error)}; it starts {start!r})"
        ) from error


def _run_apart(start: Callable[[], Coroutine[object, object, R]]) -> R:
    """Run a coroutine to its end, also for callers whose thread has a running event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # the usual case: there is none
        return asyncio.run(start())
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(start())).result()


@cache
def _certificates() -> ssl.SSLContext:
    """Return the TLS context, once per process: loading it takes longer than scoring a batch."""
    return httpx.create_ssl_context()


def _line(error: BaseException) -> str:
    return one_line(error, 200) or type(error).__name__
