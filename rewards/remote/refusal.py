"""One line about an HTTP status that is no success: what the server said, and how to mend it."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from rewards.remote.address import Address

__all__ = ["refusal"]


def refusal(status: int, body: bytes, location: str | None, address: Address) -> str:
    """`location` is that of a redirect."""
    said = _said(body)
    reason = f"it answered {status} {_phrase(status)}{f': {said}' if said else ''}"
    hint = _hint(status, location, has_token=address.token is not None)
    return f"{reason}{f': {hint}' if hint else ''}"


def _hint(status: int, location: str | None, *, has_token: bool) -> str:
    if 300 <= status < 400:
        to = f" to {_one_line(location, 200)}" if location else ""
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
    """The server's own message: ours, vLLM's or FastAPI's JSON, or plain text."""
    text = body.decode(errors="replace")
    try:
        return _one_line(_message(json.loads(text)))
    except (ValueError, RecursionError):  # an HTML page of a gateway, say
        return _one_line(text)


def _message(answer: Any) -> str:
    if isinstance(answer, dict):
        for key in ("error", "message", "detail", "msg"):
            if answer.get(key):
                return _message(answer[key])
    if isinstance(answer, list) and answer:
        return _message(answer[0])
    return answer if isinstance(answer, str) else json.dumps(answer)


def _one_line(text: str | None, limit: int = 300) -> str:
    line = " ".join((text or "").split()).rstrip(".")
    return line if len(line) <= limit else f"{line[:limit]}…"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # gateways invent their own
        return ""
