"""Limit what each client of a server may use: seconds, bytes in memory, and open connections.

A connection that sends nothing takes the place of another. So those without a whole request header
are closed after a time, and the oldest of them when there are too many, so that clients with a
request get in.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

from starlette.requests import Request
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from rewards.remote.messages import Refusal

__all__ = ["BodyBudget", "Connection", "read_body"]

HEADER_SECONDS = 10.0
MOST_SILENT = 256
MOST_SILENT_OF_ONE = 64  # of one address
CHUNK_SECONDS = 20.0  # between two parts of a body
BODY_SECONDS = 600.0
BUSY = "the server has too much to do: come back"

# uvicorn chooses the class when it is imported
_Base: Any = AutoHTTPProtocol


class Connection(_Base):
    """uvicorn's connection, closed where no whole request header arrives in time."""

    # shared by all connections: those that wait for a header, the oldest first
    _silent: dict[Connection, asyncio.TimerHandle] = {}  # noqa: RUF012

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._expect_header()
        address = self.client and self.client[0]
        own = [one for one in self._silent if (one.client and one.client[0]) == address]
        if len(own) > MOST_SILENT_OF_ONE:
            own[0].end()
        elif len(self._silent) > MOST_SILENT:
            next(iter(self._silent)).end()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif not self.transport.is_closing():
            self._expect_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def end(self) -> None:
        self._forget()
        self.transport.abort()

    def _expect_header(self) -> None:
        if self not in self._silent:
            self._silent[self] = self.loop.call_later(HEADER_SECONDS, self.end)

    def _forget(self) -> None:
        if (timer := self._silent.pop(self, None)) is not None:
            timer.cancel()


class BodyBudget:
    """The bytes of request bodies that may be in memory at once; further requests wait."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Hold `size` bytes of the budget. Raises Refusal (503) after 20 s without room."""
        try:
            async with asyncio.timeout(CHUNK_SECONDS), self._changed:
                await self._changed.wait_for(lambda: self._free >= size)
                self._free -= size
        except TimeoutError as error:
            raise Refusal(503, BUSY) from error
        try:
            yield
        finally:
            async with self._changed:
                self._free += size
                self._changed.notify_all()


def announced(request: Request, limit: int) -> int:
    """Return the size of a request's body in bytes, `limit` where it is not announced.

    Raises Refusal (413) where it is above `limit`.
    """
    given = request.headers.get("Content-Length", "")
    size = int(given) if given.isdecimal() else limit
    if size > limit:
        raise Refusal(413, f"the request is larger than {limit} bytes: send less")
    return size


async def read_body(request: Request, limit: int) -> bytes:
    """Return the whole body. Raises Refusal: 413 if it is too large, 408 if it does not come."""
    body = bytearray()
    chunks = cast(AsyncIterator[bytes], request.stream())
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                chunk = await asyncio.wait_for(anext(chunks, None), CHUNK_SECONDS)
                if chunk is None:
                    return bytes(body)
                body += chunk
                if len(body) > limit:  # the size was not announced: the body may never end
                    problem = f"the request is larger than {limit} bytes: send less"
                    raise Refusal(413, problem, closes=True)
    except TimeoutError as error:
        raise Refusal(408, "the rest of the request did not come", closes=True) from error
